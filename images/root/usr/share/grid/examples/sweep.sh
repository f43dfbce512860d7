# sweep.sh N: what stands for a simulation of parameter N.
n=$1
sum=0
for ((i = 1; i <= n; i++)); do sum=$((sum + i * i)); done
echo "parameter $n result $sum machine $(hostname)"
