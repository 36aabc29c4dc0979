#!/bin/sh
# machine.sh FOLDER COMMAND ...: run COMMAND as the first process of a machine of its own, which has this
# one's files and kernel, and from which nothing gets out: its writes are in memory (but for FOLDER), its
# network leads nowhere, its processes end with COMMAND.
set -eu
folder=$1; shift
if [ "${IN_MACHINE:-}" = "" ]; then
  # The cgroup namespace's root is where we are when it is made.
  for h in /sys/fs/cgroup/*/; do
    [ ! -e "$h/cgroup.procs" ] || echo 0 > "$h/${folder##*/}/cgroup.procs"
  done
  IN_MACHINE=1 exec unshare --cgroup --mount --pid --net --uts --ipc --propagation private \
    --fork --kill-child --mount-proc sh "$0" "$folder" "$@"
fi
hostname node
mount -t tmpfs machine "$folder/writes"
mkdir "$folder/writes/upper" "$folder/writes/work" "$folder/writes/root"
root=$folder/writes/root here=$PWD
mount -t overlay machine -o "lowerdir=/,upperdir=$folder/writes/upper,workdir=$folder/writes/work" "$root"
mkdir -p "$root/etc/cni/net.d" "$root/opt/cni/bin" "$root$folder"
mount --bind "$folder" "$root$folder"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs cgroup "$root/sys/fs/cgroup"
for h in /sys/fs/cgroup/*/; do
  name=${h%/} name=${name##*/}
  mkdir "$root/sys/fs/cgroup/$name"
  case $name in
  unified) mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/$name" ;;
  systemd) mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/$name" ;;
  *) mount -t cgroup -o "$name" cgroup "$root/sys/fs/cgroup/$name" ;;
  esac
done
mount -t tmpfs run "$root/run"
mkdir "$root/run/lock" "$root/run/netns"
cd "$root"
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
cd "$here"
exec "$@"
