# Package managers, and packages whose scripts do more than unpack.

try-apt-update() {
    apt-get update
    apt-cache policy hello | says 'Candidate: [0-9]'
}

try-apt-gives-up-its-privileges() {
    # What apt downloads it downloads as `_apt`, whose the directory is.
    apt-get update --quiet --quiet
    same "$(shape /var/lib/apt/lists/partial)" '_apt:root 700'
    apt-get download -o Debug::NoDropPrivs=false hello
    same "$(shape hello_*.deb)" 'root:root 644'
}

try-apt-update-http() {
    python3 -u -m http.server --bind 127.0.0.1 --directory /srv/packages 0 >server.log 2>&1 &
    local server=$! port=
    while [ -z "$port" ]; do
        sleep 0.05
        port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' server.log)
    done
    echo "deb [trusted=yes] http://127.0.0.1:$port/ ./" >sources.list
    apt-get update -o Dir::Etc::SourceList="$PWD/sources.list" -o Acquire::http::Proxy=DIRECT
    apt-get download -o Dir::Etc::SourceList="$PWD/sources.list" -o Acquire::http::Proxy=DIRECT hello
    kill $server
    cmp hello_*.deb /srv/packages/hello_*.deb
    apt-get update --quiet --quiet
}

try-apt-install() {
    install_packages hello
    same "$(hello)" 'Hello, world!'
    dpkg --verify hello
}

try-apt-install-setuid() {
    install_packages sudo at
    same "$(stat --format '%u:%g %a' /usr/bin/sudo)" '0:0 4755'
    same "$(shape /usr/bin/at)" 'daemon:daemon 6755'
    same "$(shape /var/spool/cron/atjobs)" 'daemon:daemon 1770'
}

try-apt-install-setgid() {
    install_packages cron
    same "$(shape /usr/bin/crontab)" 'root:crontab 2755'
    same "$(shape /var/spool/cron/crontabs)" 'root:crontab 1730'
}

try-apt-install-capability() {
    install_packages iputils-ping mtr-tiny fping
    same "$(getcap /usr/bin/ping)" '/usr/bin/ping cap_net_raw=ep'
    same "$(getcap /usr/bin/mtr-packet)" '/usr/bin/mtr-packet cap_net_raw=ep'
    same "$(getcap /usr/bin/fping)" '/usr/bin/fping cap_net_raw=ep'
}

try-apt-install-daemon() {
    install_packages dbus redis-server
    same "$(shape /usr/lib/dbus-1.0/dbus-daemon-launch-helper)" 'root:messagebus 4754'
    same "$(shape /var/lib/redis)" 'redis:redis 750'
    same "$(shape /etc/redis/redis.conf)" 'redis:redis 640'
}

try-apt-install-sshd() {
    install_packages openssh-server
    same "$(shape /usr/bin/ssh-agent)" 'root:_ssh 2755'
    same "$(shape /etc/ssh/ssh_host_ed25519_key)" 'root:root 600'
    mkdir -p /run/sshd
    /usr/sbin/sshd -t
}

try-apt-install-systemd() {
    install_packages systemd
    same "$(getent passwd systemd-network | cut -d: -f7)" /usr/sbin/nologin
    same "$(shape /var/log/journal)" 'root:systemd-journal 2755'
    test -s /etc/machine-id
    systemctl --version >/dev/null
}

try-apt-install-polkit() {
    install_packages polkitd fuse3
    same "$(shape /usr/bin/fusermount3)" 'root:root 4755'
    same "$(stat --format '%U %a' /etc/polkit-1/rules.d)" 'polkitd 700'
    getent passwd polkitd
}

try-apt-install-man-db() {
    install_packages man-db
    same "$(shape /var/cache/man)" 'man:man 755'
    same "$(shape /var/cache/man/index.db)" 'man:man 644'
}

try-apt-install-locales() {
    install_packages locales
    localedef -i de_DE -c -f UTF-8 -A /usr/share/locale/locale.alias de_DE.UTF-8
    locale -a | says '^de_DE.utf8$'
}

try-apt-install-nginx() {
    install_packages nginx-light ssl-cert
    # Port 80 is the host's affair.
    rm /etc/nginx/sites-enabled/default
    echo "server { listen unix:$PWD/socket; }" >/etc/nginx/conf.d/own.conf
    nginx -t
    rm /etc/nginx/conf.d/own.conf
    same "$(shape /etc/ssl/private)" 'root:ssl-cert 710'
    same "$(shape /etc/ssl/private/ssl-cert-snakeoil.key)" 'root:ssl-cert 640'
}

try-apt-install-postgresql() {
    install_packages postgresql
    same "$(shape /var/lib/postgresql/15/main)" 'postgres:postgres 700'
    same "$(shape /var/lib/postgresql/15/main/PG_VERSION)" 'postgres:postgres 600'
}

try-postgresql-runs() {
    install_packages postgresql
    pg_createcluster 15 other --port 0 -- --no-sync >/dev/null 2>&1 || true
    su postgres -c '/usr/lib/postgresql/15/bin/postgres --single -D /var/lib/postgresql/15/main \
        -c config_file=/etc/postgresql/15/main/postgresql.conf postgres' <<<'select 6 * 7 as answer;' | says 'answer = "42"'
}

try-apt-remove-and-purge() {
    install_packages cron ntpsec
    getent passwd ntpsec
    apt-get remove --quiet --quiet --yes ntpsec
    test -e /etc/ntpsec/ntp.conf
    apt-get purge --quiet --quiet --yes ntpsec cron
    refused test -e /etc/ntpsec/ntp.conf
    refused test -e /usr/bin/crontab
    refused dpkg --status ntpsec
}

try-dpkg-verify() {
    # Contents, and what dpkg knows of the packages, are whole.
    same "$(dpkg --verify coreutils bash perl-base dpkg apt login passwd util-linux | grep -v '/usr/share/\(doc\|info\|locale\|man\)/')" ''
    dpkg --audit
}

try-dpkg-build-and-install() {
    mkdir -p package/DEBIAN package/opt/own
    printf 'Package: own\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: own\n' >package/DEBIAN/control
    printf '#!/bin/sh\nset -e\nadduser --system --group --quiet own\nchown own:own /opt/own/data\nchmod 2750 /opt/own/data\n' >package/DEBIAN/postinst
    chmod 0755 package/DEBIAN/postinst
    mkdir package/opt/own/data
    install_packages adduser
    dpkg-deb --root-owner-group --build package own.deb
    dpkg --install own.deb
    same "$(shape /opt/own/data)" 'own:own 2750'
}

try-dpkg-statoverride() {
    install_packages hello
    dpkg-statoverride --update --add daemon games 4711 /usr/bin/hello
    same "$(shape /usr/bin/hello)" 'daemon:games 4711'
    apt-get install --quiet --quiet --yes --reinstall hello
    same "$(shape /usr/bin/hello)" 'daemon:games 4711'
    dpkg-statoverride --remove /usr/bin/hello
}

try-dpkg-divert() {
    install_packages hello
    dpkg-divert --local --rename --divert /usr/bin/hello.real --add /usr/bin/hello
    refused test -e /usr/bin/hello
    same "$(hello.real)" 'Hello, world!'
    dpkg-divert --rename --remove /usr/bin/hello
    same "$(hello)" 'Hello, world!'
}

try-debconf-preseed() {
    install_packages locales
    echo 'locales locales/default_environment_locale select C.UTF-8' | debconf-set-selections
    echo 'get locales/default_environment_locale' | debconf-communicate | says 'C.UTF-8'
}

try-update-alternatives() {
    update-alternatives --install /usr/local/bin/thing thing /bin/true 10
    update-alternatives --install /usr/local/bin/thing thing /bin/echo 20
    same "$(readlink -f /usr/local/bin/thing)" /usr/bin/echo
    update-alternatives --set thing /bin/true
    same "$(readlink -f /usr/local/bin/thing)" /usr/bin/true
    update-alternatives --remove-all thing
}

try-update-ca-certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out own.crt -subj /CN=own -days 2
    cp own.crt /usr/local/share/ca-certificates/own.crt
    update-ca-certificates
    test -L /etc/ssl/certs/own.pem
    openssl verify -CApath /etc/ssl/certs own.crt
    rm /usr/local/share/ca-certificates/own.crt
    update-ca-certificates --fresh
}
