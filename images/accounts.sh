#!/bin/sh
# Makes the accounts of the image in the tree $1. mmdebstrap runs it after the
# essential packages and before all others, which then find their accounts.
# The ids are fixed for ever: the user partition of a running machine holds
# files that belong to them while the base below is replaced.
#
# A '*' for a password lets nobody in by password. No account is in group
# floppy or disk, so that only root reads the floppy.
set -eu
root=$1

# account NAME ID HOME SHELL COMMENT: a user and its own group
account() {
	echo "$1:*:$2:$2:$5:$3:$4" >>"$root/etc/passwd"
	echo "$1:*:$2:" >>"$root/etc/group"
}
nologin=/usr/sbin/nologin

account messagebus      801 /nonexistent      $nologin "System Message Bus"
account systemd-network 802 /                 $nologin "systemd Network Management"
account systemd-resolve 803 /                 $nologin "systemd Resolver"
account sshd            804 /run/sshd         $nologin "sshd user"
account _chrony         805 /var/lib/chrony   $nologin "Chrony daemon"
account _rpc            806 /run/rpcbind      $nologin ""
account statd           807 /var/lib/nfs      $nologin ""
account condor          808 /var/lib/condor   $nologin "HTCondor Daemons"
account overlayd        809 /var/lib/overlayd $nologin "Overlay Node"
echo "systemd-journal:*:810:" >>"$root/etc/group"

# the person at the console, and the owner of the machine
account griduser 1000 /home/griduser /bin/bash "Grid User"

# accounts that HTCondor runs jobs in, one a slot
i=1
while [ $i -le 32 ]; do
	account slot$i $((900 + i)) /nonexistent $nologin "HTCondor Slot $i"
	i=$((i + 1))
done
