package format

import (
	"os"

	"golang.org/x/sys/windows"
)

// makeSparse tells NTFS that what is not written takes no room. A file system
// that cannot do so keeps a full file, which is as right.
func makeSparse(f *os.File) {
	var returned uint32
	_ = windows.DeviceIoControl(windows.Handle(f.Fd()), windows.FSCTL_SET_SPARSE, nil, 0, nil, 0, &returned, nil)
}
