//! The conformance corpus as far as no file, layer or process is concerned: what parser, planner and evaluation make of
//! each Dockerfile, against the config and the history that BuildKit recorded, and against the words that an error must say.

#![expect(clippy::unwrap_used, reason = "what the corpus holds is known")]

use builder_core::{
    dockerfile::{self, Dockerfile, Instruction, ParseError},
    evaluate::{Scope, State},
    oci::{ImageConfig, Platform},
    plan::{self, Options, Source},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/conformance/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name(case: &Path) -> String {
    case.file_name().unwrap().to_string_lossy().into_owned()
}

/// The config of a base of the corpus, as `bases/make.py` writes it.
fn base(image: &str, platform: &Platform) -> ImageConfig {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let image = image.trim_start_matches("docker.io/library/").split([':', '@']).next().unwrap();
    let mut config = json!({"Env": [PATH], "Cmd": ["sh"]});
    let mut history = vec![("base rootfs", false), ("ENV PATH", true), ("CMD sh", true)];
    match image {
        "busybox" | "nopasswd" => {}
        "alpine-like" => config["Cmd"] = json!(["/bin/sh"]),
        "debian" => config["Cmd"] = json!(["bash"]),
        "bare" => (config, history) = (json!({}), vec![("bare", false)]),
        "symlinks" | "hardlinks" => history.push(("links", false)),
        "xattrs" => history.push(("attributes", false)),
        "whiteouts" => history.extend([("one", false), ("two", false), ("three", false)]),
        "multiarch" => {
            history.push(("arch marker", false));
            if platform.architecture != "amd64" {
                history.remove(0);
            }
        }
        "schema-docker" => {
            config = json!({"Env": [PATH], "Cmd": ["sh"], "Labels": {"kind": "docker"}, "OnBuild": null, "Volumes": null, "Image": ""});
            history.push(("docker marker", false));
        }
        "onbuild" => {
            config["OnBuild"] = json!([
                "ARG FLAVOUR=plain",
                "ENV TRIGGERED=yes",
                "WORKDIR /srv/app",
                "COPY app.conf ./",
                "RUN echo \"flavour=$FLAVOUR\" > built.txt",
                "LABEL stage.from=onbuild"
            ]);
        }
        "users" => {
            config = json!({
                "User": "app", "WorkingDir": "/srv/work", "Env": [PATH, "LANG=C.UTF-8", "APP_HOME=/srv/work", "EMPTY="],
                "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo base"], "Volumes": {"/data": {}},
                "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}, "Shell": ["/bin/sh", "-e", "-c"], "StopSignal": "SIGQUIT",
                "Labels": {"maintainer": "base", "tier": "base", "com.example.keep": "1"},
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000_i64, "Retries": 3}
            });
            history.extend([("COPY work /srv # base", false), ("USER app", true), ("ENTRYPOINT", true)]);
        }
        other => panic!("no base {other:?} is known"),
    }
    let history: Vec<Value> = history.into_iter().map(|(by, empty)| json!({"created_by": by, "empty_layer": empty})).collect();
    let variant = platform.variant.as_deref().or((platform.architecture == "arm64").then_some("v8"));
    let image =
        json!({"architecture": platform.architecture, "os": "linux", "variant": variant, "config": config, "history": history});
    serde_json::from_value(image).unwrap()
}

/// What the user said, as `case.json` has it.
fn options(case: &Value) -> Options {
    let text = |value: &Value| value.as_str().map(|text| text.replace("{digest:bare}", &format!("sha256:{}", "0".repeat(64))));
    let object = |key: &str| case[key].as_object().cloned().unwrap_or_default();
    Options {
        build_args: object("build_args").iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect(),
        target: text(&case["target"]),
        target_platform: text(&case["platform"]).map_or_else(Platform::linux_amd64, |platform| platform.parse().unwrap()),
        build_platform: Platform::linux_amd64(),
        contexts: object("build_contexts").keys().cloned().collect(),
    }
}

/// The config of the target, as a build without files would leave it.
fn evaluated(file: &Dockerfile, options: &Options) -> Result<ImageConfig, Vec<ParseError>> {
    let plan = plan::plan(file, options)?;
    let scope = Scope {
        escape: file.escape,
        build_args: &options.build_args,
        global_args: &plan.global_args,
        platform_args: &plan.platform_args,
    };
    let mut states: BTreeMap<usize, State> = BTreeMap::new();
    for (index, stage) in &plan.stages {
        let mut state = match &stage.base {
            Source::Scratch => State::scratch(&stage.platform),
            Source::Stage(parent) => states[parent].inherited(),
            Source::Image(image) | Source::Context(image) => State::from_image(base(image, &stage.platform)),
        };
        let triggers = state.take_triggers();
        let triggers: Vec<Instruction> = triggers.iter().map(|text| dockerfile::parse_trigger(text).unwrap()).collect();
        for instruction in triggers.iter().chain(&file.stages[*index].instructions) {
            state.apply(instruction, scope).map_err(|error| vec![error])?;
        }
        states.insert(*index, state);
    }
    Ok(states.remove(&plan.target).unwrap().config)
}

/// The config in the shape of the goldens: nothing for what is empty, names alone for sets.
fn canonical(config: &ImageConfig) -> Value {
    let all = serde_json::to_value(config).unwrap();
    let set = |value: &Value| value.as_object().map_or(Value::Null, |set| set.keys().cloned().collect());
    let mut canonical = Map::new();
    for key in ["Env", "Cmd", "Entrypoint", "User", "Labels", "StopSignal", "Shell", "Healthcheck", "OnBuild"] {
        canonical.insert(key.to_owned(), all["config"][key].clone());
    }
    canonical.insert("ExposedPorts".to_owned(), set(&all["config"]["ExposedPorts"]));
    canonical.insert("Volumes".to_owned(), set(&all["config"]["Volumes"]));
    let working_dir = all["config"]["WorkingDir"].as_str().filter(|path| *path != "/");
    canonical.insert("WorkingDir".to_owned(), json!(working_dir));
    for key in ["architecture", "os", "variant", "author"] {
        canonical.insert(key.to_owned(), all[key].clone());
    }
    let is_empty = |value: &Value| {
        value.is_null()
            || value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty)
    };
    canonical.retain(|_, value| !is_empty(value));
    Value::Object(canonical)
}

fn keyword(created_by: &str) -> String {
    created_by.split_whitespace().next().unwrap_or_default().to_uppercase()
}

#[test]
fn config_and_history_are_those_that_buildkit_recorded() {
    let mut judged = 0;
    for case in cases() {
        let golden = case.join("golden.json");
        if !golden.exists() {
            continue;
        }
        let (said, golden) = (read_json(&case.join("case.json")), read_json(&golden));
        let name = name(&case);
        let text = fs::read(case.join(said["dockerfile_name"].as_str().unwrap_or("Dockerfile")))
            .or_else(|_| fs::read(case.join("Dockerfile")))
            .unwrap();
        let file = dockerfile::parse_bytes(&text).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        let mut config = evaluated(&file, &options(&said)).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        let labels = said["labels"].as_object().cloned().unwrap_or_default();
        config.config.labels.extend(labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));

        let mut expected = golden["config"].clone();
        expected.as_object_mut().unwrap().remove("created");
        assert_eq!(canonical(&config), expected, "{name}");
        let keywords: Vec<String> =
            config.history.iter().map(|entry| keyword(entry.created_by.as_deref().unwrap_or_default())).collect();
        let expected = golden["history"].as_array().unwrap();
        let expected: Vec<&str> = expected.iter().map(|line| line.as_str().unwrap().trim_end_matches(" (empty)")).collect();
        assert_eq!(keywords, expected, "{name}");
        judged += 1;
    }
    assert!(judged >= 140, "only {judged} cases were judged");
}

/// Whether one of the alternatives of `pattern` is in `text`. The corpus uses no more of regular expressions than this.
fn mentions(text: &str, pattern: &str) -> bool {
    let text = text.to_lowercase();
    pattern.split('|').any(|word| text.contains(&word.to_lowercase().replace("\\b", "").replace('\\', "")))
}

#[test]
fn mistakes_in_the_file_are_found_before_anything_is_built_and_told_as_the_corpus_wants() {
    let mut found = BTreeSet::new();
    for case in cases() {
        let said = read_json(&case.join("case.json"));
        if said["expect"] != "error" {
            continue;
        }
        let text = fs::read(case.join("Dockerfile")).unwrap();
        let outcome = dockerfile::parse_bytes(&text).and_then(|file| {
            // Bases that the corpus does not have are found out later.
            let known = file.stages.iter().all(|stage| !stage.base.text.contains("no-such"));
            if known { evaluated(&file, &options(&said)).map(drop) } else { Ok(()) }
        });
        let Err(errors) = outcome else { continue };
        let name = name(&case);
        let error = &errors[0];
        let told =
            format!("Dockerfile:{}: {} ({})", error.position.first_line, error.message, error.hint.as_deref().unwrap_or(""));
        for pattern in said["error_must_mention"].as_array().unwrap() {
            assert!(mentions(&told, pattern.as_str().unwrap()), "{name}: {told} does not mention {pattern}");
        }
        if let Some(line) = said["error_line"].as_u64() {
            assert_eq!(error.position.first_line as u64, line, "{name}: {told}");
        }
        found.insert(name);
    }
    let expected = [
        "error-bad-flag",
        "error-bad-substitution",
        "error-circular-stages",
        "error-copy-from-self",
        "error-empty-dockerfile",
        "error-env-syntax",
        "error-expose-bad",
        "error-from-arg-unset",
        "error-from-words",
        "error-healthcheck-bad",
        "error-json-not-strings",
        "error-no-arguments",
        "error-no-from",
        "error-onbuild-chain",
        "error-required-variable",
        "error-stopsignal",
        "error-target-unknown",
        "error-unknown-instruction",
        "error-unterminated-heredoc",
    ];
    let missing: Vec<&str> = expected.into_iter().filter(|name| !found.contains(*name)).collect();
    assert!(missing.is_empty(), "not found: {missing:?}, found: {found:?}");
}

/// A line of a Dockerfile that may or may not make sense.
fn line() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "ARG",
        "ENV",
        "LABEL",
        "RUN",
        "COPY",
        "ADD",
        "WORKDIR",
        "USER",
        "CMD",
        "ENTRYPOINT",
        "EXPOSE",
        "VOLUME",
        "STOPSIGNAL",
        "SHELL",
        "HEALTHCHECK",
        "ONBUILD",
        "ONBUILD COPY --from=0",
        "COPY --from=a",
        "FROM a AS",
    ]);
    let word = prop_oneof![
        prop::sample::select(vec![
            "scratch",
            "a",
            "b AS a",
            "A=1",
            "B=${A:-x}",
            "$A",
            "${B%.*}",
            "/x",
            "..",
            "80-90/udp",
            "65535-0",
            "[\"a\", \"$B\"]",
            "<<E\n$A\nE",
            "<<../x\n#!\n../x",
            "--from=1",
            "--mount=from=a,target=/$A",
            "--platform=$A",
            "CMD x",
            "9",
            "NONE",
            "\\\n",
        ])
        .prop_map(str::to_owned),
        "[ -~é]{0,6}",
    ];
    (keyword, prop::collection::vec(word, 0..4)).prop_map(|(keyword, words)| format!("{keyword} {}\n", words.join(" ")))
}

proptest! {
    #[test]
    fn no_file_causes_a_panic_and_a_failed_instruction_changes_nothing(lines in prop::collection::vec(line(), 0..12)) {
        let text = format!("ARG A=2\nFROM scratch AS a\n{}", lines.concat());
        let Ok(file) = dockerfile::parse(&text) else { return Ok(()) };
        let options = options(&json!({"build_args": {"B": "1.2"}}));
        let Ok(plan) = plan::plan(&file, &options) else { return Ok(()) };
        for (index, stage) in &plan.stages {
            prop_assert!(stage.needs.iter().all(|needed| needed < index && plan.stages.contains_key(needed)));
            let mut state = State::scratch(&stage.platform);
            for instruction in &file.stages[*index].instructions {
                let scope = Scope {
                    escape: file.escape,
                    build_args: &options.build_args,
                    global_args: &plan.global_args,
                    platform_args: &plan.platform_args,
                };
                let before = state.clone();
                if state.apply(instruction, scope).is_err() {
                    prop_assert_eq!(&state, &before);
                }
            }
        }
    }
}
