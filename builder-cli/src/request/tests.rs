//! Each flag and variable reaches the request; contradictions are named.

use super::*;
use crate::args::{self, Command};
use serde_json::{Value, json};
use std::ffi::OsString;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        current_directory: "/here".into(),
        platform: Platform::linux_amd64(),
        user_id: 1000,
        terminal: false,
    }
}

fn typed(line: &str) -> BuildArgs {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    match args::parse(&words) {
        Ok(Command::Build(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

fn described(line: &str, variables: &[(&str, &str)]) -> Value {
    let invocation = request(&typed(line), &environment(variables)).unwrap_or_else(|problems| panic!("{line}: {problems:?}"));
    describe(&invocation)
}

fn problem(line: &str, variables: &[(&str, &str)]) -> String {
    let problems = request(&typed(line), &environment(variables)).err().expect(line);
    problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ")
}

fn require(cases: impl IntoIterator<Item = (&'static str, &'static str, Value)>) {
    for (flags, place, expected) in cases {
        let described = described(&format!("-d r.example/a:1 {flags}"), &[("SET", "1"), ("EMPTY", "")]);
        assert_eq!(described.pointer(place), Some(&expected), "{flags} at {place}");
    }
}

#[test]
fn each_input_reaches_the_request() {
    require([
        ("", "/context", json!("/workspace")),
        ("--context src", "/context", json!("/here/src")),
        ("-c dir:///src/", "/context", json!("/src")),
        ("-c src --context-sub-path=/app/./x", "/context", json!("/here/src/app/x")),
        ("", "/dockerfile", json!(["/workspace/Dockerfile"])),
        ("-f a/b -c /src", "/dockerfile", json!(["/here/a/b", "/src/a/b"])),
        ("--dockerfile=/x/D", "/dockerfile", json!(["/x/D"])),
        ("--file D -c /src", "/dockerfile", json!(["/here/D", "/src/D"])),
        ("-f -", "/dockerfile", json!("-")),
        ("--build-arg A=1,2 --build-arg B= --build-arg A=x=y", "/build_args", json!({ "A": "x=y", "B": "" })),
        ("--build-arg SET --build-arg UNSET --build-arg EMPTY", "/build_args", json!({ "SET": "1", "EMPTY": "" })),
        ("--build-context a=dir --build-context b=dir:///x", "/build_contexts", json!({ "a": "/here/dir", "b": "/x" })),
        ("--secret id=a,src=f", "/secrets", json!([{ "id": "a", "file": "/here/f" }])),
        ("--secret id=a,source=/f,type=file", "/secrets", json!([{ "id": "a", "file": "/f" }])),
        ("--secret id=a,env=SET", "/secrets", json!([{ "id": "a", "value": "(hidden)" }])),
        ("--secret type=env,id=a,src=SET", "/secrets", json!([{ "id": "a", "value": "(hidden)" }])),
        ("--secret id=SET", "/secrets", json!([{ "id": "SET", "value": "(hidden)" }])),
        ("--secret id=SET,type=file", "/secrets", json!([{ "id": "SET", "file": "/here/SET" }])),
        ("--allow security.insecure --allow=network.host", "/allowed", json!(["security.insecure"])),
        ("--cache-keep-storage 1k", "/kept/bytes", json!(1024)),
        ("--cache-dir c", "/kept/cache_directories", json!(["/here/c/cofferdam"])),
        ("--no-push", "/kept/cache_directories", json!(["/cache/cofferdam"])),
        ("--cache-dir /c", "/state/0", json!("/c/cofferdam")),
        ("--cache-dir /c --state-dir /s", "/state", json!(["/s"])),
        ("--cache-mounts r.example/c:x", "/kept/cache_mounts/place", json!({ "registry": "r.example/c:x" })),
        ("--cache-mounts type=local,dest=d,export=false", "/kept/cache_mounts/exports", json!(false)),
        ("--ssh a=s", "/ssh", json!({ "a": "/here/s" })),
        ("--ssh default=/s --ssh other=/o", "/ssh", json!({ "default": "/s", "other": "/o" })),
        ("--secret id=none", "/secrets", json!([{ "id": "none", "file": "/here/none" }])),
    ]);
}

#[test]
fn each_result_and_each_way_reaches_the_request() {
    require([
        ("", "/target", json!(null)),
        ("--target=t", "/target", json!("t")),
        ("", "/platform", json!("linux/amd64")),
        ("--platform linux/x86_64", "/platform", json!("linux/amd64")),
        ("--custom-platform=linux/arm64", "/platform", json!("linux/arm64")),
        ("--customPlatform=linux/arm64", "/platform", json!("linux/arm64")),
        ("", "/config_platform", json!("base")),
        ("--platform=linux/amd64", "/config_platform", json!("request")),
        ("-d b --tag c:2", "/destinations", json!(["r.example/a:1", "docker.io/library/b:latest", "docker.io/library/c:2"])),
        ("-t b", "/push", json!(true)),
        ("--no-push", "/push", json!(false)),
        ("--oci-layout-path out --tar-path /t", "/exports", json!([{ "oci_layout": "/here/out" }, { "docker_tar": "/t" }])),
        ("--tarPath=t", "/exports", json!([{ "docker_tar": "/here/t" }])),
        ("--digest-file d", "/result_files/digest", json!("/here/d")),
        ("--image-name-with-digest-file d", "/result_files/name_with_digest", json!("/here/d")),
        ("--image-name-tag-with-digest-file d", "/result_files/name_tag_with_digest", json!("/here/d")),
        ("--label a=b,c=d --label e=", "/labels", json!({ "a": "b,c=d", "e": "" })),
        ("--reproducible", "/source_date_epoch", json!(0)),
        ("--insecure", "/registry/insecure_push", json!(true)),
        ("--insecure-pull=true", "/registry/insecure_pull", json!(true)),
        ("--insecure-registry a --insecure-registry b:5000", "/registry/insecure", json!(["a", "b:5000"])),
        ("--skip-tls-verify", "/registry/unverified_push", json!(true)),
        ("--skip-tls-verify", "/registry/unverified_pull", json!(true)),
        ("--skip-tls-verify-pull", "/registry/unverified_pull", json!(true)),
        ("--skip-tls-verify-pull", "/registry/unverified_push", json!(false)),
        ("--skip-tls-verify-registry a", "/registry/unverified", json!(["a"])),
        ("--registry-certificate a=/ca.pem", "/registry/authorities", json!([["a", "/ca.pem"]])),
        ("--registry-client-cert a=c.pem,/k.pem", "/registry/client_certificates", json!([["a", "/here/c.pem", "/k.pem"]])),
        ("--registry-mirror m/p --registry-mirror n", "/registry/mirrors", json!([["docker.io", "m/p"], ["docker.io", "n"]])),
        (
            "--registry-map=index.docker.io=a;quay.io=b;index.docker.io=c --registry-map quay.io=d",
            "/registry/mirrors",
            json!([["index.docker.io", "a"], ["quay.io", "b"], ["index.docker.io", "c"], ["quay.io", "d"]]),
        ),
        ("", "/registry/fallback", json!(true)),
        ("--skip-default-registry-fallback", "/registry/fallback", json!(false)),
        ("--push-retry 2", "/registry/push_retries", json!(2)),
        ("--image-download-retry=5", "/registry/pull_retries", json!(5)),
        ("", "/cache", json!(true)),
        ("--cache=false", "/cache", json!(false)),
        ("--no-cache", "/cache", json!(false)),
        ("--state-dir s", "/state", json!(["/here/s"])),
        ("--kaniko-dir /k", "/state", json!(["/k"])),
        ("", "/isolation", json!("auto")),
        ("--isolation namespaces", "/isolation", json!("namespaces")),
        ("", "/max_unpacked_bytes", json!(64_u64 << 30)),
        ("--max-unpacked-size 20G", "/max_unpacked_bytes", json!(20_u64 << 30)),
        ("--max-unpacked-size=0", "/max_unpacked_bytes", json!(u64::MAX)),
        ("", "/step_timeout_seconds", json!(null)),
        ("--run-timeout 90", "/step_timeout_seconds", json!(90)),
        ("--run-timeout=1h30m5s", "/step_timeout_seconds", json!(5405)),
        ("", "/layers/compression", json!("gzip")),
        ("--compression zstd", "/layers/compression", json!("zstd")),
        ("--compression=uncompressed", "/layers/compression", json!("uncompressed")),
        ("", "/layers/level", json!(null)),
        ("--compression-level -1", "/layers/level", json!(null)),
        ("--compression-level=0", "/layers/level", json!(null)),
        ("--compression-level 9", "/layers/level", json!(9)),
        ("--compressed-caching=false", "/layers/compression", json!("gzip")),
        ("", "/layers/jobs", json!(null)),
        ("--jobs 3", "/layers/jobs", json!(3)),
        ("-j1", "/layers/jobs", json!(1)),
        ("", "/registry/connections", json!(null)),
        ("--max-connections=2", "/registry/connections", json!(2)),
        ("-v debug", "/log/verbosity", json!("debug")),
        ("--verbosity=WARNING", "/log/verbosity", json!("warn")),
        ("-q", "/log/quiet", json!(true)),
        ("--log-format=json", "/log/format", json!("json")),
        ("--log-timestamp", "/log/timestamps", json!(true)),
        ("--progress tty", "/log/moving_line", json!(true)),
        ("--progress plain", "/log/moving_line", json!(false)),
        (
            "--force",
            "/notes/0",
            json!("--force has no effect: steps never run in the root file system of the builder, so nothing in it changes"),
        ),
    ]);
}

#[test]
fn caches_are_those_that_were_asked_for() {
    let registry = |name: &str| json!({ "registry": name });
    let inline = |name: &str| json!({ "inline": name });
    let to = |place: Value, layers: &str| json!({ "place": place, "layers": layers });
    let usual = "r.example/a/cache:latest";
    for (flags, from, kept) in [
        ("", json!([]), json!([])),
        ("--cache=false --cache-repo q/c", json!([]), json!([])),
        ("--cache", json!([registry(usual)]), json!([to(registry(usual), "max")])),
        ("--cache --no-push", json!([registry(usual)]), json!([to(registry(usual), "max")])),
        ("--cache --no-push-cache", json!([registry(usual)]), json!([])),
        ("--cache-repo=r/c:t", json!([registry("docker.io/r/c:t")]), json!([to(registry("docker.io/r/c:t"), "max")])),
        ("--cache-repo oci:d", json!([{ "layout": "/here/d" }]), json!([to(json!({ "layout": "/here/d" }), "max")])),
        ("--cache-from q.io/b:c", json!([registry("q.io/b:c"), inline("q.io/b:c")]), json!([])),
        (
            "--cache-from type=registry,ref=q.io/b --cache-from type=local,src=d",
            json!([registry("q.io/b:latest"), inline("q.io/b:latest"), { "layout": "/here/d" }]),
            json!([]),
        ),
        ("--cache-from type=inline,ref=q.io/b:c", json!([inline("q.io/b:c")]), json!([])),
        ("--cache-to q.io/b:c", json!([]), json!([to(registry("q.io/b:c"), "min")])),
        (
            "--cache-to type=registry,ref=q.io/b:c,mode=max,image-manifest=true",
            json!([]),
            json!([to(registry("q.io/b:c"), "max")]),
        ),
        ("--cache-to type=local,dest=/d", json!([]), json!([to(json!({ "layout": "/d" }), "min")])),
        ("--cache-to type=inline", json!([]), json!([to(json!({ "inline": null }), "min")])),
    ] {
        let described = described(&format!("-d r.example/a:1 {flags}"), &[]);
        assert_eq!(described["shared_cache"]["from"], from, "{flags}");
        assert_eq!(described["shared_cache"]["to"], kept, "{flags}");
    }
    for (flags, place, expected) in [
        ("", "ttl_seconds", json!(null)),
        ("--cache-ttl=1h", "ttl_seconds", json!(3600)),
        ("", "copy_layers", json!(true)),
        ("--cache-copy-layers=false", "copy_layers", json!(false)),
        ("--cache-run-layers=false", "run_layers", json!(false)),
        ("--explain-cache", "explain", json!(true)),
    ] {
        assert_eq!(described(&format!("-d a {flags}"), &[])["shared_cache"][place], expected, "{flags}");
    }
}

#[test]
fn a_context_may_be_elsewhere() {
    let git = |remote: &str, reference: Value, commit: Value, directory: &str| {
        json!({ "git": remote, "reference": reference, "commit": commit, "directory": directory,
            "submodules": true, "depth": null, "skip_tls_verify": false, "credential": false })
    };
    let commit = "0123456789012345678901234567890123456789";
    for (flags, expected) in [
        ("-c tar://a.tgz", json!({ "archive": "/here/a.tgz" })),
        ("-c tar://stdin", json!("-")),
        ("-c -", json!("-")),
        ("-c https://u:p@h/c.tgz?sig=x", json!("https://h/c.tgz")),
        ("-c git://h/a/b", git("https://h/a/b", json!(null), json!(null), "")),
        ("-c git://h/a.git#refs/heads/x:d", git("https://h/a.git", json!("refs/heads/x"), json!(null), "d")),
        (&format!("-c git://h/a.git#main#{commit}"), git("https://h/a.git", json!(null), json!(commit), "")),
        ("-c https://h/a.git?branch=x&subdir=d", git("https://h/a.git", json!("refs/heads/x"), json!(null), "d")),
        ("-c git@h:a.git#v1", git("git@h:a.git", json!("v1"), json!(null), "")),
        ("-c git://h/a --git branch=x,single-branch=true", git("https://h/a", json!("x"), json!(null), "")),
    ] {
        assert_eq!(described(&format!("-d r.example/a:1 {flags}"), &[])["context"], expected, "{flags}");
    }
    let described = |flags: &str, variables: &[(&str, &str)]| described(&format!("-d r.example/a:1 {flags}"), variables);
    let options = described("-c git://h/a --git depth=3 --git recurse-submodules=false,insecure-skip-tls=true", &[]);
    assert_eq!(options["context"]["depth"], json!(3));
    assert_eq!((&options["context"]["submodules"], &options["context"]["skip_tls_verify"]), (&json!(false), &json!(true)));
    for variables in [&[("GIT_TOKEN", "hunter2")], &[("GIT_USERNAME", "hunter2")]] {
        let shown = described("-c git://h/a", variables);
        assert_eq!(shown["context"]["credential"], json!(true));
        assert!(!shown.to_string().contains("hunter2"));
    }
    assert_eq!(described("-c git://hunter2@h/a", &[])["context"]["git"], json!("https://h/a"));
    assert_eq!(described("-c git://h/a", &[("GIT_PULL_METHOD", "http")])["context"]["git"], json!("http://h/a"));
    let below = described("-c tar://a.tgz --context-sub-path /app/./x -f x/D", &[]);
    assert_eq!((&below["context_directory"], &below["dockerfile"]), (&json!("app/x"), &json!("x/D")));
    assert_eq!(described("-c git://h/a", &[])["dockerfile"], json!("Dockerfile"));
    assert_eq!(described("-f https://u:p@h/D?x", &[])["dockerfile"], json!("https://h/D"));
}

#[test]
fn a_named_context_may_be_an_image_or_elsewhere() {
    for (place, expected) in [
        ("docker-image://b", json!({ "image": "docker.io/library/b:latest" })),
        ("oci-layout://l", json!({ "oci_layout": "/here/l", "image": null })),
        ("oci-layout:///l/m:v1", json!({ "oci_layout": "/l/m", "image": "v1" })),
        ("oci-layout:///l:v1@sha256:ab", json!({ "oci_layout": "/l", "image": "sha256:ab" })),
        ("tar://t", json!({ "archive": "/here/t" })),
        ("https://h/t.tar", json!("https://h/t.tar")),
    ] {
        let described = described(&format!("--no-push --build-context x={place}"), &[]);
        assert_eq!(described["build_contexts"]["x"], expected, "{place}");
    }
    let described = described("--no-push --build-context x=https://h/a.git#main:d", &[]);
    assert_eq!(described["build_contexts"]["x"]["directory"], json!("d"));
}

#[test]
fn the_context_of_docker_build_is_an_argument() {
    for (line, expected) in [("build --no-push", "/here"), ("build --no-push src", "/here/src"), ("build -c /a --no-push", "/a")]
    {
        assert_eq!(described(line, &[])["context"], json!(expected), "{line}");
    }
}

#[test]
fn each_variable_reaches_the_request() {
    for (name, value, place, expected) in [
        ("KANIKO_NO_PUSH", "true", "/push", json!(false)),
        ("KANIKO_REGISTRY_MIRROR", "a,b", "/registry/mirrors", json!([["docker.io", "a"], ["docker.io", "b"]])),
        ("KANIKO_REGISTRY_MAP", "q=a;q=b;", "/registry/mirrors", json!([["q", "a"], ["q", "b"]])),
        ("SOURCE_DATE_EPOCH", "1700000000", "/source_date_epoch", json!(1_700_000_000)),
        ("DOCKER_CONFIG", "/d", "/registry/credentials", json!(["/d/config.json"])),
        ("HOME", "/h", "/registry/credentials", json!(["/h/.docker/config.json"])),
        ("DOCKER_AUTH_CONFIG", "{}", "/registry/credentials", json!(["(hidden)"])),
        ("REGISTRY_AUTH_FILE", "/a.json", "/registry/credentials", json!(["/a.json"])),
        ("XDG_RUNTIME_DIR", "/run/u", "/registry/credentials", json!(["/run/u/containers/auth.json"])),
        ("HTTPS_PROXY", "http://u:p@proxy", "/registry/proxies/https", json!(true)),
        ("http_proxy", "http://proxy", "/registry/proxies/http", json!(true)),
        ("NO_PROXY", "a,b", "/registry/proxies/none", json!("a,b")),
        ("SSL_CERT_FILE", "/ca", "/registry/authority_file", json!("/ca")),
        ("SSL_CERT_DIR", "/cas", "/registry/authority_directory", json!("/cas")),
        ("COFFERDAM_STATE", "/s", "/state/0", json!("/s")),
        ("KANIKO_DIR", "/k", "/state/0", json!("/k/cofferdam")),
        ("XDG_CACHE_HOME", "/x", "/state/0", json!("/x/cofferdam")),
    ] {
        assert_eq!(described("-d r.example/a:1", &[(name, value)]).pointer(place), Some(&expected), "{name}");
    }
    let flags_win = described("-d a --registry-mirror m", &[("KANIKO_REGISTRY_MIRROR", "n"), ("KANIKO_NO_PUSH", "0")]);
    assert_eq!(flags_win["registry"]["mirrors"], json!([["docker.io", "m"]]));
    assert_eq!(described("-d a --no-push=false", &[("KANIKO_NO_PUSH", "true")])["push"], json!(true));
}

#[test]
fn state_goes_to_the_first_volume_and_never_into_the_context_by_itself() {
    let variables = [("HOME", "/home/u"), ("TMPDIR", "/t")];
    assert_eq!(
        described("-d a -c /src", &variables)["state"],
        json!([
            "/cache/cofferdam",
            "/workspace/cofferdam",
            "/home/u/.cache/cofferdam",
            "/t/cofferdam-1000",
            "/tmp/cofferdam-1000"
        ])
    );
    assert_eq!(
        described("-d a -c /workspace", &variables[..1])["state"],
        json!(["/cache/cofferdam", "/home/u/.cache/cofferdam", "/tmp/cofferdam-1000"])
    );
    let all = [("COFFERDAM_STATE", "/s"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/home/u"), ("TMPDIR", "/t")];
    let places = ["/s", "/x/cofferdam", "/cache/cofferdam", "/workspace/cofferdam", "/home/u/.cache/cofferdam"];
    assert_eq!(
        described("-d a -c /src", &all)["state"],
        json!([&places[..], &["/t/cofferdam-1000", "/tmp/cofferdam-1000"]].concat())
    );
    let asked = described("-d a -c /here --state-dir=.cofferdam", &[]);
    assert_eq!(asked["state"], json!(["/here/.cofferdam"]));
    assert!(asked["notes"][0].as_str().unwrap().contains(".dockerignore"));
}

#[test]
fn what_a_copy_of_the_context_would_take_along_is_told() {
    for (flags, expected) in [
        ("-c . --state-dir ./state", "the state directory /here/state lies in the context: name it in .dockerignore"),
        ("-c . --cache-repo oci:./cache", "the cache /here/cache lies in the context: name it in .dockerignore"),
        ("-c sub --cache-repo oci:sub/../cache --state-dir sub/../../here/state", ""),
    ] {
        let notes = described(&format!("-d r.example/a:1 {flags}"), &[])["notes"].clone();
        let told = notes.as_array().unwrap().iter().filter_map(Value::as_str).filter(|note| note.contains("lies in the context"));
        assert_eq!(told.collect::<String>(), expected, "{flags}");
    }
}

#[test]
fn contradictions_and_mistakes_are_named() {
    for (line, expected) in [
        ("-c /a", "the image has nowhere to go"),
        ("build --no-push -c a b", "the context is given twice, with --context and as an argument"),
        ("-d a --cache --no-cache", "--cache and --no-cache exclude each other"),
        ("--no-push --cache", "--cache has no place for what it shares with other machines"),
        ("-d a --cache-repo oci:", "--cache-repo: the directory is missing"),
        ("-d a --cache-ttl 2w", "--cache-ttl: \"2w\" is no duration, as 336h or 1h30m are"),
        ("-d a --no-push-cache --cache-to b", "--no-push-cache and --cache-to exclude each other"),
        ("-d a --cache-from type=gha", "--cache-from: type=gha is not supported: there are registry, local and inline"),
        ("-d a --cache-from type=registry", "--cache-from: ref=… is missing"),
        ("-d a --cache-from type=local,src=d,tag=x", "--cache-from: unexpected tag=x"),
        ("-d a --cache-to ref=b", "--cache-to: the type is missing: registry, local or inline"),
        ("-d a --cache-to type=registry,ref=b,mode=all", "--cache-to: the mode \"all\" is neither min nor max"),
        ("-d a --cache-to type=registry,ref=b,mode=max,color=red", "--cache-to: unexpected color=red"),
        (
            "-d a --cache-to type=inline,mode=max",
            "--cache-to: an image has no other layers than its own: mode=max is none of inline",
        ),
        (
            "-d a --cache-to type=registry,ref=b,compression=zstd",
            "--cache-to: its layers are those of the image: --compression says how these are compressed",
        ),
        ("-d a --progress tty --log-format json", "--log-format json and --progress tty exclude each other"),
        ("-d a -c s3://b/c", "contexts of the kind s3:// are not supported yet"),
        ("-d a -c https://x.blob.core.windows.net/c/f", "access keys of Azure Blob Storage are not supported yet"),
        ("-d a -c docker-image://x", "an image cannot be the context of a build"),
        ("-d a -c git://h/r#main#abc", "the context: \"abc\" is no commit: that has 40 hex digits"),
        (
            "-d a -c git://h/r --git deep=1",
            "--git: \"deep\" is unknown; there are branch, single-branch, depth, recurse-submodules and insecure-skip-tls",
        ),
        ("-d a -c . --git depth=1", "--git needs a repository as the context"),
        ("-d a -c - -f -", "the Dockerfile and the context cannot both come from standard input"),
        ("-d a -c ftp://b/c", "ftp:// is no kind of context"),
        ("-d a -c /a --context-sub-path ../b", "--context-sub-path ../b leads out of the context"),
        (
            "-d a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "--destination: \"a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" names an image by its digest, which is not known before it is built",
        ),
        (
            "-d A/b",
            "--destination: invalid image name \"A/b\": the repository \"A/b\" may hold only a-z, 0-9 and single separators . _ - / (it must be lower case)",
        ),
        ("-d a --build-arg =x", "--build-arg without a name"),
        ("-d a --label x", "--label: \"x\" is not of the form NAME=VALUE"),
        (
            "-d a --build-context x=s3://b",
            "--build-context: contexts of the kind s3:// are not supported; the kinds are a path, tar://, docker-image://, oci-layout://, https:// and Git addresses",
        ),
        ("-d a --build-context x=", "--build-context: \"x=\" has no value"),
        ("-d a --target a,b", "one build makes one target"),
        ("-d a --platform linux/amd64,linux/arm64", "one build makes an image for one platform"),
        (
            "-d a --platform linux",
            "--platform: \"linux\" is no platform: expected os/architecture or os/architecture/variant, as in linux/arm64",
        ),
        ("-d a --ssh default", "--ssh: there is no agent for \"default\": SSH_AUTH_SOCK is not set"),
        ("-d a --allow device", "--allow: \"device\" is neither security.insecure nor network.host"),
        ("-d a --ssh =x", "--ssh: the id is missing"),
        ("-d a --ssh a=/key1,/key2", "--ssh: one agent for an id: load all keys into it with ssh-add"),
        ("-d a --ssh a=/x --ssh a=/y", "--ssh: the id \"a\" is given twice"),
        ("-d a --secret src=x", "--secret: the id is missing"),
        ("-d a --secret id=x,env=UNSET", "--secret: the variable UNSET is not set"),
        ("-d a --secret id=x,src=a,env=B", "--secret: src and env exclude each other"),
        ("-d a --secret id=x,mode=1", "--secret: unexpected mode=1"),
        ("-d a --secret id=x --secret id=x,src=y", "--secret: the id \"x\" is given twice"),
        ("-d a --run-timeout 0", "--run-timeout: \"0\" is no time at all: leave the flag out for no limit"),
        ("-d a --run-timeout 0m0s", "--run-timeout: \"0m0s\" is no time at all: leave the flag out for no limit"),
        ("-d a --run-timeout soon", "--run-timeout: \"soon\" is no duration, as 90s, 30m or 2h are"),
        ("-d a --max-unpacked-size much", "--max-unpacked-size: \"much\" is no size, as 500MiB or 20G are"),
        ("-d a --registry-client-cert r=c", "--registry-client-cert: expected REGISTRY=CERTIFICATE,KEY"),
        ("-d a --digest-file https://x/y", "--digest-file takes a file; nothing is sent to an address"),
        (
            "--label x --target a,b",
            "the image has nowhere to go; --label: \"x\" is not of the form NAME=VALUE; one build makes one target",
        ),
    ] {
        let message = problem(line, &[]);
        assert!(message == expected || line.starts_with("--label") && message.split("; ").count() == 3, "{line}: {message}");
    }
    assert_eq!(problem("-d a", &[("SOURCE_DATE_EPOCH", "now")]), "SOURCE_DATE_EPOCH: \"now\" is no number of seconds");
    assert_eq!(problem("-d a", &[("KANIKO_NO_PUSH", "maybe")]), "KANIKO_NO_PUSH is neither true nor false");
}

#[test]
fn a_secret_is_printed_nowhere() {
    let variables = [("TOKEN", "hunter2"), ("DOCKER_AUTH_CONFIG", "hunter2"), ("HTTPS_PROXY", "http://u:hunter2@p")];
    let invocation = request(&typed("-d a --secret id=TOKEN"), &environment(&variables)).unwrap();
    assert!(!describe(&invocation).to_string().contains("hunter2"));
    assert!(!format!("{:?} {:?}", invocation.request, invocation.registry.credentials).contains("hunter2"));
}

#[test]
fn sizes_are_read_in_the_usual_spellings() {
    for (text, expected) in [
        ("0", Some(0)),
        ("12", Some(12)),
        ("12B", Some(12)),
        ("1k", Some(1024)),
        ("1kB", Some(1000)),
        ("1KiB", Some(1024)),
        ("2 GiB", Some(2 << 30)),
        ("1T", Some(1 << 40)),
        ("", None),
        ("G", None),
        ("1.5G", None),
        ("1X", None),
        ("-1", None),
        ("99999999999T", None),
    ] {
        assert_eq!(size_bytes(text).ok(), expected, "{text}");
    }
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let format = |line: &str, terminal, variables: &[(&str, &str)]| {
        log_settings(&typed(line), &Environment { terminal, ..environment(variables) }).format
    };
    assert_eq!(format("-d a", true, &[]), LogFormat::Color);
    assert_eq!(format("-d a", false, &[]), LogFormat::Text);
    assert_eq!(format("-d a", true, &[("NO_COLOR", "1")]), LogFormat::Text);
    assert_eq!(format("-d a --log-format=color", false, &[]), LogFormat::Color);
}
