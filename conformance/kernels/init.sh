#!/bin/busybox sh
# The first process of a machine that has the host's files, read-only, with a layer of memory above them.
set -e
b=/bin/busybox
$b mkdir -p /proc /sys /dev /lower /layer /new
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for m in /modules/*; do $b insmod "$m"; done
share=trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576
$b mount -t 9p -o $share root /lower
$b mount -t tmpfs tmpfs /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /new
for d in proc sys dev; do $b mount --move /$d /new/$d; done
$b mkdir -p "/new/lib/modules/$($b uname -r)" /new/dev/pts /new/dev/shm
$b mount -t 9p -o $share modules "/new/lib/modules/$($b uname -r)"
$b mount -t 9p -o $share work /new/mnt
$b mount -t devpts devpts /new/dev/pts
for d in /dev/shm /run; do $b mount -t tmpfs tmpfs /new$d; done
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b mount -t bpf bpf /new/sys/fs/bpf
$b ip link set lo up
# The kernel looks for modprobe in the root it started with.
exec $b switch_root /new /bin/bash -c 'bash /mnt/run.sh; echo o > /proc/sysrq-trigger; sleep 60'
