# Users and groups, whom a process is, who owns a file and who may touch it.

try-useradd() {
    useradd --create-home --shell /bin/bash --uid 4001 anna
    same "$(getent passwd anna)" 'anna:x:4001:4001::/home/anna:/bin/bash'
    same "$(shape /home/anna)" 'anna:anna 755'
    same "$(shape /home/anna/.bashrc)" 'anna:anna 644'
}

try-usermod() {
    useradd bernd
    groupadd --gid 4100 workers
    usermod --append --groups workers,audio bernd
    same "$(id -nG bernd | tr ' ' '\n' | sort | xargs)" 'audio bernd workers'
    gpasswd --delete bernd audio
    same "$(id -nG bernd | tr ' ' '\n' | sort | xargs)" 'bernd workers'
}

try-userdel() {
    useradd --create-home carla
    userdel --remove carla
    refused getent passwd carla
    refused test -e /home/carla
}

try-chpasswd() {
    useradd dora
    echo 'dora:secret' | chpasswd
    getent shadow dora | says '^dora:\$y\$'
    same "$(shape /etc/shadow)" 'root:shadow 640'
}

try-su() {
    useradd --create-home emil
    same "$(su emil -c 'id -un; id -gn')" $'emil\nemil'
    same "$(su - emil -c 'pwd; echo $HOME')" $'/home/emil\n/home/emil'
    same "$(su emil -c 'touch /tmp/of-emil; stat --format %U:%G /tmp/of-emil')" emil:emil
    rm /tmp/of-emil
}

try-su-is-refused-what-root-owns() {
    useradd frida
    echo secret >private
    chmod 0600 private
    refused su frida -c "cat $PWD/private"
    refused su frida -c "touch $PWD/new"
    refused su frida -c "rm -f $PWD/private"
    refused su frida -c "chown frida $PWD/private"
    refused su frida -c "chmod 0777 $PWD"
    same "$(cat private)" secret
}

try-su-from-a-user() {
    # A setuid program asks for the password and gets it wrong.
    useradd georg
    echo 'georg:right' | chpasswd
    refused su nobody -s /bin/sh -c "echo wrong | su georg -c 'echo became georg'"
    same "$(su nobody -s /bin/sh -c "echo right | su georg -c 'id -un' 2>/dev/null")" georg
}

try-sudo() {
    install_packages sudo
    useradd heidi
    echo 'heidi ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/heidi
    chmod 0440 /etc/sudoers.d/heidi
    same "$(su heidi -c 'sudo id -u')" 0
    same "$(su heidi -c 'sudo -u daemon id -un')" daemon
    same "$(sudo -u heidi id -un)" heidi
    refused su nobody -s /bin/sh -c 'sudo -n id'
}

try-setpriv() {
    same "$(setpriv --reuid=1234 --regid=2345 --clear-groups sh -c 'id -u; id -g; id -G')" $'1234\n2345\n2345'
    same "$(setpriv --reuid=1234 --regid=2345 --groups=7,8 id -G)" '2345 7 8'
    refused setpriv --reuid=1234 --clear-groups setpriv --reuid=0 true
}

try-runuser() {
    same "$(runuser -u games -- id -un)" games
    same "$(runuser -u games -g audio -- id -gn)" audio
}

try-start-stop-daemon() {
    start-stop-daemon --start --background --make-pidfile --pidfile "$PWD/pid" --chuid games:audio --exec /bin/sleep -- 60
    sleep 0.2
    local pid
    pid=$(cat pid)
    kill -0 "$pid"
    start-stop-daemon --stop --pidfile "$PWD/pid" --retry 5
    refused kill -0 "$pid"
}

try-setuid-program() {
    cat >show.c <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void) {
    uid_t r, e, s; gid_t a, b, c;
    getresuid(&r, &e, &s); getresgid(&a, &b, &c);
    printf("%u %u %u %u %u %u\n", r, e, s, a, b, c);
}
C
    gcc -o show show.c
    chown games:audio show
    chmod 6755 show
    local user=65534 games audio
    games=$(id -u games) audio=$(getent group audio | cut -d: -f3)
    same "$(setpriv --reuid=$user --regid=$user --clear-groups ./show)" "$user $games $games $user $audio $audio"
    # Given away again, it is an ordinary program.
    chown root show
    same "$(stat --format %a show)" 755
    same "$(setpriv --reuid=$user --regid=$user --clear-groups ./show)" "$user $user $user $user $user $user"
}

try-setuid-calls() {
    run_c <<'C'
#include <assert.h>
#include <grp.h>
#include <unistd.h>
#include <sys/fsuid.h>
int main(void) {
    uid_t r, e, s; gid_t group = 77;
    assert(!setgroups(1, &group) && !setresgid(500, 501, 502) && !setresuid(600, 601, 602));
    getresuid(&r, &e, &s);
    assert(r == 600 && e == 601 && s == 602);
    assert(setuid(0) == -1 && setresuid(0, -1, -1) == -1 && setgroups(0, NULL) == -1);
    assert(!setreuid(601, 602) && getuid() == 601 && geteuid() == 602);
    assert(!seteuid(601) && geteuid() == 601 && setfsuid(601) == 601);
    assert(getgroups(0, NULL) == 1 && getegid() == 501);
}
C
}

try-chown() {
    touch file
    mkdir -p tree/of/directories
    ln -s file link
    chown daemon:games file
    same "$(shape file)" 'daemon:games 644'
    chown -R 12345:23456 tree
    same "$(stat --format %u:%g tree tree/of tree/of/directories | uniq)" 12345:23456
    chown -h 77:78 link
    same "$(stat --format %u:%g link)" 77:78
    same "$(stat --format %U file)" daemon
    chgrp audio file
    same "$(stat --format %U:%G file)" daemon:audio
    run_c <<'C'
#include <assert.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) {
    struct stat s;
    int file = open("file", O_RDWR);
    assert(!fchown(file, 5, -1) && !fstat(file, &s) && s.st_uid == 5 && s.st_gid == 29);
    assert(!fchownat(file, "", -1, 6, AT_EMPTY_PATH) && !stat("file", &s) && s.st_gid == 6);
}
C
}

try-chmod() {
    touch file
    for mode in 0 200 444 1777 2755 4711 6777; do
        chmod $mode file
        same "$(stat --format %a file)" $mode
    done
    chmod 0 file
    echo text >file
    same "$(cat file)" text
    mkdir -m 0 closed
    touch closed/inside
    same "$(ls closed)" inside
}

try-umask() {
    (umask 027; touch file; mkdir directory; mkfifo pipe)
    same "$(stat --format %a file directory pipe | xargs)" '640 750 640'
}

try-install-command() {
    echo text >source
    install -D --owner=games --group=audio --mode=4750 source deep/er/target
    same "$(shape deep/er/target)" 'games:audio 4750'
    same "$(shape deep/er)" 'root:root 755'
}

try-copy-keeps-everything() {
    mkdir source
    echo text >source/file
    ln source/file source/other
    ln -s file source/link
    chown -h games:audio source/link source/file
    chmod 4751 source/file
    touch --date=2001-02-03T04:05:06.789 source/file
    setcap cap_net_raw+ep source/file
    cp -a source target
    same "$(shape target/file)" 'games:audio 4751'
    same "$(stat --format %U:%G target/link)" games:audio
    same "$(stat --format %h target/file)" 2
    same "$(stat --format %y target/file)" '2001-02-03 04:05:06.789000000 +0000'
    same "$(getcap target/file)" 'target/file cap_net_raw=ep'
}

try-setgid-directory() {
    mkdir shared
    chown root:audio shared
    chmod 2775 shared
    mkdir shared/directory
    touch shared/file
    same "$(shape shared/directory)" 'root:audio 2755'
    same "$(shape shared/file)" 'root:audio 644'
}

try-sticky-directory() {
    mkdir -m 1777 common
    touch common/of-root
    refused setpriv --reuid=1234 --clear-groups rm -f common/of-root
    setpriv --reuid=1234 --clear-groups touch common/own
    setpriv --reuid=1234 --clear-groups rm common/own
    test -e common/of-root
}

try-permissions-of-others() {
    mkdir -m 0711 passable
    mkdir -m 0700 closed
    touch passable/file closed/file
    setpriv --reuid=1234 --clear-groups stat passable/file
    refused setpriv --reuid=1234 --clear-groups stat closed/file
    refused setpriv --reuid=1234 --clear-groups ls passable
    refused setpriv --reuid=1234 --clear-groups touch passable/new
    refused setpriv --reuid=1234 --clear-groups test -w passable/file
}

try-setcap() {
    cp /bin/true program
    setcap cap_net_bind_service,cap_sys_admin=eip program
    same "$(getcap program)" 'program cap_net_bind_service,cap_sys_admin=eip'
    same "$(getfattr --absolute-names --name security.capability --encoding hex program | sed -n 's/^security.capability=0x\(..\)\{4\}/&/p' | cut -c 1-30)" \
        'security.capability=0x01000002'
    setcap -r program
    same "$(getcap program)" ''
    setcap cap_net_raw+p program
    chown daemon program
    same "$(getcap program)" ''
    setcap cap_net_raw+p program
    echo more >>program
    same "$(getcap program)" ''
}

try-capabilities-of-root() {
    # What Docker grants, and nothing beyond it.
    same "$(sed -n 's/^CapEff:\t//p' /proc/self/status | wc -c)" 17
    same "$(getpcaps self 2>&1 | wc -l)" 1
    capsh --has-p=cap_chown
    capsh --has-p=cap_setuid
    refused capsh --has-p=cap_sys_admin
    refused capsh --has-p=cap_sys_module
}

try-mknod() {
    mknod null c 1 3
    mknod disk b 7 5
    mknod -m 0620 terminal c 5 0
    chown root:tty terminal
    same "$(stat --format '%F %t:%T %a' null)" 'character special file 1:3 644'
    same "$(stat --format '%F %t:%T %a' disk)" 'block special file 7:5 644'
    same "$(stat --format '%F %t:%T %U:%G %a' terminal)" 'character special file 5:0 root:tty 620'
    test -c null
    test -b disk
    mv disk moved
    test -b moved
    rm null moved terminal
}

try-mkfifo() {
    mkfifo --mode=0640 pipe
    chown games:audio pipe
    same "$(stat --format '%F' pipe)" fifo
    same "$(shape pipe)" 'games:audio 640'
    echo through >pipe &
    same "$(cat pipe)" through
    wait
}

try-hard-links() {
    echo text >first
    ln first second
    chown games first
    same "$(stat --format '%h %U' second)" '2 games'
    same "$(stat --format %i first)" "$(stat --format %i second)"
    rm first
    same "$(stat --format '%h %U' second)" '1 games'
    ln -s nowhere link
    ln -P link other
    same "$(stat --format %h link)" 2
    chown -h games other
    same "$(stat --format %U link)" games
}

try-acl() {
    echo text >file
    chmod 0600 file
    setfacl --modify user:1234:r file
    getfacl --numeric file | says '^user:1234:r--$'
    setfacl --modify default:user:1234:rw .
    getfacl --numeric . | says '^default:user:1234:rw-$'
    setfacl --remove-all --remove-default file .
    same "$(getfacl --omit-header file | xargs)" 'user::rw- group::--- other::---'
}

try-xattrs() {
    touch file
    setfattr --name user.note --value remember file
    same "$(getfattr --only-values --name user.note file)" remember
    same "$(getfattr file)" $'# file: file\nuser.note'
    setfattr --remove user.note file
    same "$(getfattr file)" ''
    refused getfattr --only-values --name user.note file
}

try-mount-is-refused() {
    mkdir place
    refused mount -t tmpfs none place
    refused mount --bind /etc place
    refused umount /proc
}

try-chroot() {
    mkdir -p root/bin root/etc
    cp /bin/busybox root/bin/busybox
    echo inside >root/etc/where
    same "$(chroot root /bin/busybox cat /etc/where)" inside
    same "$(chroot root /bin/busybox sh -c 'cd /; cd ../../..; busybox=/bin/busybox; $busybox pwd; $busybox ls')" $'/\nbin\netc'
    same "$(chroot --userspec=1234:2345 root /bin/busybox id -u)" 1234
}
