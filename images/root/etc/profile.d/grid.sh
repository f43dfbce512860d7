# Where one is and what to type, for people who log in.
case $- in
*i*)
	if [ -r /run/grid/ready ]; then
		sed -n 's/^grid-appliance: READY name=\([^ ]*\) address=\([^ ]*\) role=\([^ ]*\) grid=\([^ ]*\) group=\([^ ]*\).*/This is \1 (\2), a \3 of group \5 in the grid \4./p' /run/grid/ready
	else
		echo "This machine is not in its grid yet: firstboot status says why."
	fi
	echo "grid status: the pool and your jobs.  ~/examples/README: jobs to try.  sudo grid doctor: what is wrong."
	echo "Everybody in the grid can read what is world-readable in /mnt/local."
	;;
esac
