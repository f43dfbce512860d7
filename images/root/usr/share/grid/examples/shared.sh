# shared.sh HOST: reads HOST's numbers through the automounter.
file=/mnt/ganfs/$1/numbers
echo "$(hostname) read $(wc -l <"$file") lines of $file"
