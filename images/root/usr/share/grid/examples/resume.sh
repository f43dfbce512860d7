# resume.sh N: N steps of half a second, and a checkpoint after every tenth.
steps=$1
step=0
history=""
if [ -e resume.state ]; then
	read -r step history <resume.state
fi
history="$history $(hostname):$step"
while [ "$step" -lt "$steps" ]; do
	sleep 0.5
	step=$((step + 1))
	if [ $((step % 10)) = 0 ] && [ "$step" -lt "$steps" ]; then
		echo "$step $history" >resume.state
		exit 85
	fi
done
echo "$step steps; started at:$history"
