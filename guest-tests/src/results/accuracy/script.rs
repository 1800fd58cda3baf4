//! What the guest does.

use super::image::FileSystem;
use crate::guest::MOUNT_ROOTFS;

/// Where the guest has the file system; programs in its root file system see it at `/mnt`.
pub(super) const MOUNTED: &str = "/root-fs/mnt";
/// A file whose data goes through the journal, where that of others does not.
const JOURNALLED: &str = "touch $at/m/journalled; inside /usr/bin/chattr +j /mnt/m/journalled || fail chattr
inside /bin/dd if=/dev/urandom of=/mnt/m/journalled bs=4k count=32 conv=notrunc,fsync 2>/dev/null || fail journalled";

/// Programs have paths: what busybox starts by its name alone is busybox itself if it can.
pub(super) fn script(kind: FileSystem, others: bool) -> String {
    let mount = format!("mount {} /dev/vdb {MOUNTED}", kind.mount());
    let bystander = if others { "bystander files $at/u 9 12 40 >/dev/null || fail bystander" } else { "" };
    let journalled = if kind == FileSystem::Ext4 { JOURNALLED } else { "" };
    format!(
        "ROOTFS=/dev/vda{MOUNT_ROOTFS}
at={MOUNTED}
fail() {{ echo FAILED=$1; failed=yes; }}
{mount} || fail mount
mkdir $at/u $at/m $at/m/untar $at/m/linux $at/m/forms $at/m/mail $at/m/copy $at/m/fio
mount -t ext4 -o ro /dev/vdd /root-fs/var/tmp || fail headers
tar cf $at/u/src.tar -C /root-fs usr/share usr/lib/git-core etc || fail src
{bystander}
umount $at; {mount}
inside /bin/tar xf /mnt/u/src.tar -C /mnt/m/untar || fail tar
inside /bin/tar xf /var/tmp/linux.tar -C /mnt/m/linux || fail linux
inside /usr/bin/sqlite3 /mnt/m/wal.db 'pragma journal_mode=wal; create table t(n, text);
    with recursive c(n) as (select 1 union all select n+1 from c where n<3000)
    insert into t select n, hex(randomblob(40)) from c; update t set n = -n where n % 7 = 0;' >/dev/null || fail wal
inside /usr/bin/sqlite3 /mnt/m/rollback.db 'pragma journal_mode=delete; create table t(n, text);
    with recursive c(n) as (select 1 union all select n+1 from c where n<3000)
    insert into t select n, hex(randomblob(40)) from c; delete from t where n % 5 = 0;
    update t set n = -n where n % 7 = 0;' >/dev/null || fail rollback
inside /bin/dd if=/dev/urandom of=/mnt/m/direct bs=64k count=64 oflag=direct 2>/dev/null || fail direct
inside /bin/dd if=/dev/urandom of=/mnt/m/odd bs=1000 count=3000 2>/dev/null || fail odd
inside /bin/dd if=/dev/urandom of=/mnt/m/odd bs=700 count=50 seek=300 conv=notrunc 2>/dev/null || fail patch
inside /bin/dash -c 'mkdir -p /root/.gnupg; gpg --batch -q --pinentry-mode loopback --passphrase sky --s2k-count 1024 \\
    -c -o /mnt/m/direct.gpg /mnt/m/direct; gpgconf --kill gpg-agent' || fail gpg
inside /bin/cp /mnt/m/wal.db /mnt/m/direct.gpg /mnt/m/copy || fail cp
inside /bin/dash -c 'cd /mnt/m; git init -q repo; cp -r untar/usr/share/git-core/templates repo/; cd repo; git add .
    git -c user.name=x -c user.email=x commit -q -m x; git clone -q . ../clone' || fail git
printf 'set location /mnt/m/mail\\nset number 150\\nset transactions 200\\nset bias delete 0\\nrun\\nquit\\n' > /tmp/pm
inside /usr/bin/postmark < /tmp/pm >/dev/null || fail postmark
writer forms $at/m/forms >/dev/null || fail forms
fio() {{
    name=$1; shift
    inside /usr/bin/fio --name=$name --filename=/mnt/m/fio/$name --ioengine=io_uring --iodepth=8 --thread --rw=randwrite \\
        --size=2M --refill_buffers --end_fsync=1 \"$@\" >/dev/null || fail $name
}}
fio buffered --bs=4k
fio direct --bs=8k --direct=1
mkfifo /tmp/go; writer mapped $at/m/mapped 32 < /tmp/go > /tmp/mapped & exec 9>/tmp/go
until [ -s /tmp/mapped ]; do usleep 100000; done
sync; exec 9>&-; wait $! || fail mapped
{journalled}
sync
extents $at > /tmp/list || fail extents
dd if=/tmp/list of=/dev/vdc bs=1M conv=notrunc 2>/dev/null; sync
umount $at; {mount}
inside /bin/busybox find /mnt -type f -exec /usr/bin/sha256sum '{{}}' + > /dev/null || fail read
umount $at || fail umount
echo DONE=${{failed:-yes}}"
    )
}
