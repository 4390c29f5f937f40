#!/usr/bin/env bash
# base.sh TAR: writes the root file system that the tests in pods build from, made of Debian packages: the toolchains that the
# programs use are installed, and what they install themselves lies in a repository of its own at /srv/packages, so that no
# pod needs the network. Needs mmdebstrap and root. Where this machine's apt finds Debian, this finds it too.
set -euo pipefail

tar=$1
suite=bookworm

# In the image when a build begins.
installed=(
    acl attr busybox-static bzip2 ca-certificates cpio curl dpkg-dev file gcc git golang-go libc6-dev libcap2-bin make nodejs npm
    openjdk-17-jdk-headless openssl patch perl procps psmisc python3 python3-pip python3-setuptools python3-venv python3-wheel
    rsync socat sqlite3 strace tzdata unzip xz-utils zip zstd
)
# To be installed by a build, with what they depend on.
offered=(
    adduser at bc bsdextrautils cron dbus dnsutils fping fuse3 gawk hello iproute2 iputils-ping jq less locales logrotate lsof
    man-db mtr-tiny nano netcat-openbsd nginx-light ntpsec openssh-server polkitd postgresql redis-server rsyslog screen ssl-cert
    sudo sysstat systemd tcpdump tmux vim-tiny whois wget
)

# The words of this machine's apt, which mmdebstrap does not read by itself.
mapfile -t mirrors < <(
    apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
        grep " $suite" | sort --unique
)
options=()
while read -r option; do
    [ -z "$option" ] || options+=("--aptopt=$option")
done < <(apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https)

# What no test reads: it would make up most of the image.
for path in '/usr/share/'{doc,locale,info}'/*' '/usr/share/man/man*/*' '/usr/lib/jvm/*/jmods/*' '/usr/bin/*lto-dump*' \
    '/usr/lib/go-*/pkg/linux_*/cmd/*' '/usr/share/go-*/'{test,doc,api,src/cmd}'/*' '/usr/share/go-*/*_test.go' \
    '/usr/share/nodejs/@types/*'; do
    options+=("--dpkgopt=path-exclude=$path")
done

# Runs in the new root. `/srv/packages` is world-readable, for apt gives up its privileges to read it.
repository='
    set -e
    apt-get clean
    mkdir --parents /srv/packages
    apt-get --quiet --quiet --yes --no-install-recommends --download-only install '${offered[*]}'
    mv /var/cache/apt/archives/*.deb /srv/packages/
    cd /srv/packages
    dpkg-scanpackages --multiversion . > Packages 2>/dev/null
    rm --force /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap
    echo "deb [trusted=yes] file:/srv/packages ./" > /etc/apt/sources.list
    rm --recursive --force /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/ldconfig/* /var/log/*.log /var/log/apt/*
    rm --force /etc/resolv.conf /etc/hostname /etc/hosts /etc/machine-id /var/lib/dbus/machine-id
'

SOURCE_DATE_EPOCH=1262304000 mmdebstrap --variant=minbase --mode=root --format=tar --skip=output/dev --include="${installed[*]}" "${options[@]}" \
    --customize-hook="printf '%s' '$repository' | chroot \"\$1\" sh" "$suite" "$tar.part" "${mirrors[@]}"
mv "$tar.part" "$tar"
