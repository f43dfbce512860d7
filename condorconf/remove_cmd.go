package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gridappliance/condorconf/pool"
	"gridappliance/condorconf/tree"
)

// newRemoveCommand is write for a machine that has no role any more.
func newRemoveCommand() *cobra.Command {
	var folder string
	var planned bool
	c := &cobra.Command{
		Use:   "remove",
		Short: "remove every file that write may have made",
		Long: `remove takes the grid's configuration of HTCondor, of the automounter and of the
NFS server away, HTCondor's key and certificate too. Other files stay, and so do
folders. It needs no floppy and asks nobody. Services are the caller's to stop
(firstboot leave does). --plan prints what would go.

EXIT STATUS
  4 when the files may not be removed`,
		Example: "  condorconf remove --plan\n  condorconf remove",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			root, err := os.OpenRoot(folder)
			if err != nil {
				return err
			}
			defer root.Close()
			changes, err := tree.Compare(root, nil, pool.Owned())
			if err != nil {
				return err
			}
			if !planned {
				if err := tree.Clean(root, pool.Owned()); err != nil {
					return err
				}
			}
			for _, change := range changes {
				if !planned {
					if err := tree.Apply(root, []tree.Change{change}); err != nil {
						return err
					}
				}
				if _, err := fmt.Fprint(c.OutOrStdout(), change.Diff()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&folder, "root", "/", "the `folder` whose etc/ is meant")
	c.Flags().BoolVar(&planned, "plan", false, "print what would go, and remove nothing")
	return c
}
