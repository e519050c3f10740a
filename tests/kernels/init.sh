#!/bin/busybox sh
# The emulated machine's first process: makes the outer machine's files its own, runs what `results/run` says in them, and
# leaves the exit status in `results/status`. Changes stay in memory: the outer machine's files are shared read-only.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
exec </dev/null >/dev/ttyS0 2>&1

for module in /modules/*; do
    insmod "$module" || echo "init: $module does not load"
done

share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,$3" "$1" "$2"; }
share outer /lower ro,cache=loose,access=client && share results /results cache=none || poweroff -f
touch /results/booted
mount -t tmpfs -o size=80% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || poweroff -f

mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
for folder in dev/shm run; do
    mount -t tmpfs tmpfs "/root/$folder"
done
mkdir /root/run/results
mount --bind /results /root/run/results
ip link set lo up
hostname second-kernel

stty -F /dev/ttyS1 -onlcr
chroot /root /bin/sh /run/results/run </dev/null >/dev/ttyS1 2>&1
echo $? >/results/status
sync
poweroff -f
