//! What instructions do to the config, the history and the variables, and which actions are left.

use super::*;
use crate::plan;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What the instructions of a file left behind: the target's state, and the actions of every planned stage in its order.
struct Outcome {
    state: State,
    actions: Vec<Action>,
}

/// Evaluates the planned stages of `text`; every base image is `base`. `words` are build arguments, `NAME=value`.
fn outcome_of(text: &str, words: &[&str], base: &ImageConfig) -> Result<Outcome, ParseError> {
    let dockerfile = dockerfile::parse(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let pair = |word: &&str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    let options = plan::Options {
        build_args: words.iter().map(pair).collect(),
        target: None,
        target_platform: Platform::linux_amd64(),
        build_platform: Platform::linux_amd64(),
        contexts: BTreeSet::new(),
    };
    let plan = plan::plan(&dockerfile, &options).unwrap();
    let scope = Scope {
        escape: dockerfile.escape,
        build_args: &options.build_args,
        global_args: &plan.global_args,
        platform_args: &plan.platform_args,
    };
    let mut states: BTreeMap<usize, State> = BTreeMap::new();
    let mut actions = Vec::new();
    for (index, planned) in &plan.stages {
        let mut state = match &planned.base {
            plan::Source::Scratch => State::scratch(&planned.platform),
            plan::Source::Stage(parent) => states[parent].inherited(),
            plan::Source::Image(_) | plan::Source::Context(_) => State::from_image(base.clone()),
        };
        let triggers = state.take_triggers();
        let triggers: Vec<Instruction> = triggers.iter().map(|text| dockerfile::parse_trigger(text).unwrap()).collect();
        for instruction in triggers.iter().chain(&dockerfile.stages[*index].instructions) {
            actions.push(state.apply(instruction, scope)?);
        }
        states.insert(*index, state);
    }
    actions.retain(|action| *action != Action::Metadata);
    Ok(Outcome { state: states.remove(&plan.target).unwrap(), actions })
}

fn outcome(text: &str, words: &[&str]) -> Outcome {
    outcome_of(text, words, &config(r#"{"Env":["PATH=/bin"],"Cmd":["sh"]}"#)).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// An image config around a container config in JSON.
fn config(container: &str) -> ImageConfig {
    ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        config: serde_json::from_str(container).unwrap(),
        ..ImageConfig::default()
    }
}

/// The container config that the instructions leave, as JSON.
fn container(text: &str) -> String {
    serde_json::to_string(&outcome(text, &[]).state.config.config).unwrap()
}

/// The environment of the image, below PATH.
fn env(text: &str, words: &[&str]) -> String {
    outcome(text, words).state.config.config.env[1..].join(" ")
}

/// The lines of the history; those of an empty layer in parentheses.
fn history(text: &str, words: &[&str]) -> Vec<String> {
    let line = |entry: History| {
        let text = entry.created_by.unwrap();
        if entry.empty_layer { format!("({text})") } else { text }
    };
    outcome(text, words).state.config.history.into_iter().map(line).collect()
}

fn error(text: &str) -> ParseError {
    outcome_of(text, &[], &config("{}")).err().unwrap_or_else(|| panic!("{text} is no error"))
}

fn runs(text: &str, words: &[&str]) -> Vec<RunAction> {
    let run = |action| if let Action::Run(run) = action { Some(run) } else { None };
    outcome(text, words).actions.into_iter().filter_map(run).collect()
}

/// What the last RUN sees beyond PATH.
fn seen(text: &str, words: &[&str]) -> String {
    let runs = runs(text, words);
    let pairs = runs.last().unwrap().environment.iter().filter(|(name, _)| *name != "PATH");
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn copies(text: &str) -> Vec<CopyAction> {
    let copy = |action| if let Action::Copy(copy) = action { Some(copy) } else { None };
    outcome(text, &[]).actions.into_iter().filter_map(copy).collect()
}

#[test]
fn the_later_word_of_arg_and_env_counts_but_only_env_reaches_the_image() {
    let text = "FROM b\nARG A=arg\nENV A=env\nENV C=env\nARG C=arg\nARG B=arg\nENV D=$C$B\nRUN x\n";
    for (words, expected_seen, expected_env) in [
        (&[][..], "A=env B=arg C=arg D=argarg", "A=env C=env D=argarg"),
        (&["A=1", "B=2", "C=3"], "A=env B=2 C=3 D=32", "A=env C=env D=32"),
        (&["A=", "B=", "C=", "Z=1"], "A=env B= C= D=", "A=env C=env D="),
    ] {
        assert_eq!(seen(text, words), expected_seen, "{words:?}");
        assert_eq!(env(text, words), expected_env, "{words:?}");
    }
}

#[test]
fn an_arg_has_the_value_of_the_user_else_its_default_else_the_global_one() {
    for (text, words, expected) in [
        ("ARG V=1\nFROM b\nRUN x\n", &[][..], ""),
        ("ARG V=1\nFROM b\nARG V\nRUN x\n", &[], "V=1"),
        ("ARG V=1\nFROM b\nARG V=2\nRUN x\n", &[], "V=2"),
        ("ARG V=1\nFROM b\nARG V=2\nRUN x\n", &["V=3"], "V=3"),
        ("FROM b\nARG V\nRUN x\n", &["V="], "V="),
        ("FROM b\nARG V\nRUN x\n", &[], ""),
        ("ARG V\nFROM b\nARG V\nRUN x\n", &["V=3"], "V=3"),
        ("ARG A=1 B=${A}2\nFROM b\nARG A B C=$A D=\"${B} q\"\nRUN x\n", &["C=cli"], "A=1 B=12 C=cli D=12 q"),
        ("FROM b\nARG A=1 B=$A A=2 C=$A\nRUN x\n", &[], "A=2 B=1 C=2"),
        ("FROM b\nARG TARGETARCH TARGETVARIANT\nRUN x\n", &[], "TARGETARCH=amd64 TARGETVARIANT="),
        ("FROM b\nARG TARGETARCH\nRUN x\n", &["TARGETARCH=s390x"], "TARGETARCH=s390x"),
        ("FROM b\nARG TARGETSTAGE\nRUN x\n", &[], "TARGETSTAGE=default"),
        ("FROM b\nENV V=env\nARG V\nRUN x\n", &[], "V=env"),
    ] {
        assert_eq!(seen(text, words), expected, "{text} {words:?}");
    }
}

#[test]
fn a_stage_inherits_the_args_of_its_parent_below_the_env_of_the_image() {
    let parent = "FROM b AS p\nARG A=arg\nENV E=env\nARG E=arg\n";
    assert_eq!(seen(&format!("{parent}RUN x\n"), &[]), "A=arg E=arg");
    assert_eq!(seen(&format!("{parent}FROM p\nRUN x\n"), &[]), "A=arg E=env");
    assert_eq!(seen(&format!("{parent}FROM b\nCOPY --from=p /f /\nRUN x\n"), &[]), "");
}

#[test]
fn an_instruction_sees_the_environment_of_before_itself() {
    for (text, expected) in [
        ("ENV A=1\nENV A=2 B=$A\n", "A=2 B=1"),
        ("ENV B=1 A=2 C=3\nENV A=new\nENV D=4 D=5\n", "B=1 A=new C=3 D=5"),
        ("ENV A=a\\ b 'B'=\"c d\" C='$A'\n", "A=a b B=c d C=$A"),
        ("ENV ONE hello   world\nENV TWO $ONE and \\$ONE\n", "ONE=hello   world TWO=hello   world and $ONE"),
        ("ENV K=X\nENV $K=1 P$K=2\n", "K=X X=1 PX=2"),
    ] {
        assert_eq!(env(&format!("FROM b\n{text}"), &[]), expected, "{text}");
    }
    let path = outcome("FROM scratch\nENV A=1\nENV PATH=/only\n", &[]).state.config.config.env;
    assert_eq!(path, ["PATH=/only", "A=1"], "PATH stands first in an image from scratch");
}

#[test]
fn a_base_without_path_gets_one_and_odd_entries_do_no_harm() {
    for (base, expected) in [
        (r#"{"Env":["A=1"]}"#, "A=1 PATH=D N=x"),
        (r#"{"Env":["PATH="]}"#, "PATH= N=x"),
        (r#"{"Env":["PATHX=1","N","N=2"]}"#, "PATHX=1 N=x N=2 PATH=D"),
        (r#"{"Env":null}"#, "PATH=D N=x"),
    ] {
        let state = outcome_of("FROM b\nENV N=x\n", &[], &config(base)).unwrap().state;
        assert_eq!(state.config.config.env.join(" ").replace(DEFAULT_PATH, "D"), expected, "{base}");
    }
}

#[test]
fn metadata_instructions_change_the_config() {
    for (text, expected) in [
        ("CMD a b\n", r#"{"Env":["PATH=/bin"],"Cmd":["/bin/sh","-c","a b"],"ArgsEscaped":true}"#),
        ("CMD [\"a\", \"b\"]\n", r#"{"Env":["PATH=/bin"],"Cmd":["a","b"],"ArgsEscaped":true}"#),
        ("ENTRYPOINT [\"e\"]\n", r#"{"Env":["PATH=/bin"],"Entrypoint":["e"]}"#),
        (
            "CMD c\nENTRYPOINT [\"e\"]\n",
            r#"{"Env":["PATH=/bin"],"Entrypoint":["e"],"Cmd":["/bin/sh","-c","c"],"ArgsEscaped":true}"#,
        ),
        (
            "SHELL [\"/bin/bash\", \"-ec\"]\nENTRYPOINT $HOME x\n",
            r#"{"Env":["PATH=/bin"],"Entrypoint":["/bin/bash","-ec","$HOME x"],"Shell":["/bin/bash","-ec"]}"#,
        ),
        ("USER app:staff\n", r#"{"User":"app:staff","Env":["PATH=/bin"],"Cmd":["sh"]}"#),
        ("ARG U=7\nUSER $U\nUSER $NOBODY\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"]}"#),
        (
            "EXPOSE 80 53/udp\nARG P=\"1 2-3/sctp\"\nEXPOSE $P 80/tcp\n",
            r#"{"ExposedPorts":{"1/tcp":{},"2/sctp":{},"3/sctp":{},"53/udp":{},"80/tcp":{}},"Env":["PATH=/bin"],"Cmd":["sh"]}"#,
        ),
        ("VOLUME /a $NOT/b\nVOLUME [\"/x y\"]\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"Volumes":{"/a":{},"/b":{},"/x y":{}}}"#),
        (
            "LABEL a=1 b=\"2 3\"\nLABEL a=\nLABEL \"with space\"=$PATH\n",
            r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"Labels":{"a":"","b":"2 3","with space":"/bin"}}"#,
        ),
        ("STOPSIGNAL SIGTERM\nSTOPSIGNAL 37\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"StopSignal":"37"}"#),
        (
            "HEALTHCHECK --interval=1m30s --timeout=250ms --retries=7 CMD a $B\n",
            r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD-SHELL","a $B"],"Interval":90000000000,"Timeout":250000000,"Retries":7}}"#,
        ),
        ("HEALTHCHECK CMD [\"a\"]\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD","a"]}}"#),
        ("HEALTHCHECK NONE\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]}}"#),
        ("ONBUILD   ENV   K=$V\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"OnBuild":["ENV   K=$V"]}"#),
        ("WORKDIR /a\nWORKDIR b\nWORKDIR ./c/../d\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"WorkingDir":"/a/b/d"}"#),
        ("WORKDIR ../..\n", r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"WorkingDir":"/"}"#),
        (
            "ENV A=/x B=one\nWORKDIR \"${A}/q $B\"\n",
            r#"{"Env":["PATH=/bin","A=/x","B=one"],"Cmd":["sh"],"WorkingDir":"/x/q one"}"#,
        ),
    ] {
        assert_eq!(container(&format!("FROM b\n{text}")), expected, "{text}");
    }
    assert_eq!(outcome("FROM b\nMAINTAINER Some One <x>\n", &[]).state.config.author.as_deref(), Some("Some One <x>"));
}

#[test]
fn a_cmd_of_the_parent_stage_falls_with_an_entrypoint_and_one_of_a_trigger_does_not() {
    let cmd = |text: &str| outcome(text, &[]).state.config.config.cmd.unwrap_or_default().join(" ");
    assert_eq!(cmd("FROM b AS p\nCMD [\"c\"]\nFROM p\nENTRYPOINT [\"e\"]\n"), "");
    assert_eq!(cmd("FROM b AS p\nCMD [\"c\"]\nFROM p\nUSER u\n"), "c");
    assert_eq!(cmd("FROM b AS p\nONBUILD CMD [\"c\"]\nFROM p\nENTRYPOINT [\"e\"]\n"), "c");
}

#[test]
fn the_history_reads_as_buildkit_writes_it() {
    let text = "FROM b\nARG A=1 B\nENV X=a\\ b Y=\nLABEL k=\"v w\"\nWORKDIR /w\nWORKDIR /\nUSER u\nVOLUME /v /x\n\
        EXPOSE 53/udp 80\nCMD [\"a\", \"q\\\"\\t\\u0001\"]\nENTRYPOINT e f\nSTOPSIGNAL 9\nSHELL [\"/bin/bash\", \"-c\"]\nHEALTHCHECK NONE\n\
        MAINTAINER me\nONBUILD RUN x\nRUN echo $A\nARG A=2\nRUN [\"a\", \"b\"]\nCOPY --from=x --chown=$A --chmod=644 --link --exclude=e a $B b/\n\
        COPY --parents --chown=$B f .\nADD f /g\nCOPY <<E /e\nbody\nE\nRUN <<E\n#!/bin/x\nE\nRUN <<E\nbody\nE\n";
    assert_eq!(
        history(text, &[]),
        [
            "(ARG A=1 B)",
            "(ENV X=a b Y=)",
            "(LABEL k=v w)",
            "WORKDIR /w",
            "(WORKDIR /)",
            "(USER u)",
            "(VOLUME [/v /x])",
            "(EXPOSE [53/udp 80/tcp])",
            "(CMD [\"a\" \"q\\\"\\t\\x01\"])",
            "(ENTRYPOINT [\"/bin/sh\" \"-c\" \"e f\"])",
            "(STOPSIGNAL 9)",
            "(SHELL [/bin/bash -c])",
            "(HEALTHCHECK [\"NONE\"])",
            "(MAINTAINER me)",
            "RUN |2 A=1 B= /bin/bash -c echo $A # buildkit",
            "(ARG A=2)",
            "RUN |2 A=2 B= a b # buildkit",
            "COPY --chown=2 --chmod=644 a  b/ # buildkit",
            "COPY --parents f . # buildkit",
            "ADD f /g # buildkit",
            "COPY <<E /e # buildkit",
            "RUN |2 A=2 B= /bin/bash -c /dev/pipes/E # buildkit",
            "RUN |2 A=2 B= /bin/bash -c body\n # buildkit",
        ]
    );
}

#[test]
fn run_is_told_what_to_execute_where_and_as_whom() {
    let text = "FROM b\nUSER app\nWORKDIR /w\nENV V=v\nRUN --network=none --security=sandbox --device=gpu --mount=type=cache,target=/c/$V echo \"$V\"\n";
    let run = &runs(text, &[])[0];
    assert_eq!((run.user.as_str(), run.working_dir.as_str()), ("app", "/w"));
    assert_eq!(run.argv, ["/bin/sh", "-c", "echo \"$V\""]);
    assert_eq!(
        (run.network, run.security, run.devices.join(" ").as_str()),
        (Some(Network::None), Some(Security::Sandbox), "gpu")
    );
    assert!(matches!(&run.mounts[..], [ResolvedMount::Cache(cache)] if cache.target == "/c/v"), "{:?}", run.mounts);
    for (text, expected) in [
        ("RUN [\"echo\", \"$V\"]\n", &["echo", "$V"][..]),
        ("SHELL [\"bash\", \"-c\"]\nRUN a \\\n  b\n", &["bash", "-c", "a   b"]),
        ("RUN <<E\n$V\nE\n", &["/bin/sh", "-c", "$V\n"]),
        ("RUN cat <<E > f\n$V\nE\n", &["/bin/sh", "-c", "cat <<E > f\n$V\nE"]),
        ("RUN <<../../E\n#!/bin/x\n$V\n../../E\n", &["/bin/sh", "-c", "/dev/pipes/E"]),
    ] {
        assert_eq!(runs(&format!("FROM b\n{text}"), &[])[0].argv, expected, "{text}");
    }
    let script = runs("FROM b\nRUN <<-E\n#!/bin/x\n\t$V\nE\n", &[]).remove(0).script.unwrap();
    assert_eq!((script.name.as_str(), script.content.as_slice()), ("E", &b"#!/bin/x\n$V\n"[..]));
}

#[test]
fn proxies_reach_run_in_both_cases_and_nothing_else() {
    let words = ["HTTP_PROXY=h", "https_proxy=s", "NO_PROXY=n", "no_proxy=m", "FTP_PROXY=", "Other_Proxy=x"];
    let text = "FROM b\nENV SEEN=[$HTTP_PROXY]\nRUN x\nARG HTTP_PROXY\nRUN y\n";
    let runs = runs(text, &words);
    let told = |run: &RunAction| {
        run.proxies.iter().fold(String::new(), |mut told, (name, value)| {
            write!(told, "{name}={value} ").unwrap();
            told
        })
    };
    assert_eq!(told(&runs[0]), "HTTPS_PROXY=s HTTP_PROXY=h NO_PROXY=n http_proxy=h https_proxy=s no_proxy=m ");
    assert_eq!(told(&runs[1]), "HTTPS_PROXY=s NO_PROXY=n http_proxy=h https_proxy=s no_proxy=m ", "what ARG names is no secret");
    assert_eq!(env(text, &words), "SEEN=[]");
    let history = history(text, &words);
    assert_eq!(history[1], "RUN /bin/sh -c x # buildkit");
    assert_eq!(history[3], "RUN |1 HTTP_PROXY=h /bin/sh -c y # buildkit");
}

#[test]
fn copy_and_add_come_out_expanded() {
    let text = "FROM b\nWORKDIR /w\nENV V=val\nARG O=1:2\nARG S\n\
        COPY --from=x --chown=$O --chmod=${M:-755} --link --exclude=$V f /$V/\\$V g$S $V/\n\
        ADD --checksum=${S} --chown=$S --unpack=false --keep-git-dir=true http://$V/ .\nCOPY a $S\n";
    let copies = copies(text);
    let copy = &copies[0];
    assert_eq!(copy.sources, ["f", "/val/$V", "g"].map(|path| CopySource::Path(path.to_owned())));
    assert_eq!((copy.destination.as_str(), copy.working_dir.as_str()), ("val/", "/w"));
    assert_eq!((copy.chown.as_deref(), copy.chmod.as_deref()), (Some("1:2"), Some("755")));
    assert_eq!((copy.from.as_ref().unwrap().text.as_str(), copy.excludes.join(" ").as_str()), ("x", "$V"));
    assert!(copy.link && !copy.parents && copy.add.is_none());
    let add = &copies[1];
    assert_eq!(add.add, Some(AddOptions { checksum: None, unpack: Some(false), keep_git_dir: Some(true) }));
    assert_eq!((add.chown.as_deref(), add.destination.as_str()), (None, "./"), "nothing is no owner, and . is a directory");
    assert_eq!(copies[2].destination, "./");
}

#[test]
fn heredocs_become_files_of_their_name_and_lead_nowhere_else() {
    let text =
        "FROM b\nARG N=world\nCOPY <<one <<'two' <<-../../three /d/\n$N \\$N \"q\"\none\n$N\ntwo\n\t${M:-m}\n../../three\n";
    let files: Vec<String> = copies(text)[0]
        .sources
        .iter()
        .map(|source| match source {
            CopySource::Inline { name, content } => format!("{name}: {}", String::from_utf8_lossy(content)),
            CopySource::Path(path) => path.clone(),
        })
        .collect();
    assert_eq!(files, ["one: world $N \"q\"\n", "two: $N\n", "three: m\n"]);
    for text in ["FROM b\nCOPY <<a/b /d\na/b\n", "FROM b\nRUN <<..\n#!/bin/sh\n..\n"] {
        assert!(error(text).message.ends_with("is no name of a file"), "{text}");
    }
}

#[test]
fn a_workdir_makes_a_directory_for_the_user_of_the_moment() {
    let text = "FROM b\nWORKDIR /\nUSER app\nWORKDIR x\nUSER svc:staff\nWORKDIR y\n";
    let workdir = |path: &str, user: &str| Action::Workdir(WorkdirAction { path: path.to_owned(), user: user.to_owned() });
    assert_eq!(outcome(text, &[]).actions, [workdir("/x", "app"), workdir("/x/y", "svc:staff")]);
    let state = State::from_image(config(r#"{"WorkingDir":"srv//app/"}"#));
    assert_eq!(state.working_dir(), "/srv/app");
}

#[test]
fn triggers_run_first_and_are_gone() {
    let base = config(r#"{"OnBuild":["ARG F=plain","ENV T=yes","RUN echo $F"]}"#);
    let outcome = outcome_of("FROM onbuild\nENV OWN=$T\n", &["F=cherry"], &base).unwrap();
    assert_eq!(outcome.state.config.config.env[1..], ["T=yes", "OWN=yes"]);
    assert!(outcome.state.config.config.on_build.is_empty());
    let last = outcome.state.config.history[2].created_by.as_deref();
    assert_eq!(last, Some("RUN |1 F=cherry /bin/sh -c echo $F # buildkit"));
    let chain = "FROM b AS t\nONBUILD ENV A=1\nONBUILD RUN <<E\nx\nE\nFROM t AS c\nONBUILD ENV B=$A\nFROM c\n";
    assert_eq!(env(chain, &[]), "A=1 B=1");
    assert_eq!(runs(chain, &[]).len(), 1);
}

#[test]
fn a_mistake_has_its_line_its_word_and_a_remedy_and_changes_nothing() {
    for (text, line, expected, hint) in [
        ("ENV B=${A^^}\n", 2, "unsupported modifier (^) in substitution of ${A}", None),
        ("ARG WHY=\"plum pudding\"\nENV V=1 \\\n W=\"${V2:?$WHY}\"\n", 3, "V2: plum pudding", None),
        ("ENV $NOT=1\n", 2, "ENV names can not be blank: $NOT expands to nothing", None),
        ("label $NOT=1\n", 2, "LABEL names can not be blank: $NOT expands to nothing", None),
        ("VOLUME /a $NOT\n", 2, "VOLUME names no path: $NOT expands to nothing", None),
        (
            "EXPOSE 80 eighty\n",
            2,
            "invalid port \"eighty\": expected a number from 0 to 65535 or a range of two",
            Some("EXPOSE takes ports as in 80, 80/udp or 8000-8010/tcp"),
        ),
        (
            "STOPSIGNAL SIGNOSUCH\n",
            2,
            "\"SIGNOSUCH\" is no signal",
            Some("STOPSIGNAL takes a name as in SIGTERM or SIGRTMIN+3, or a number"),
        ),
        ("COPY --chown=${X:?who} a b\n", 2, "X: who", None),
        (
            "COPY --link --chown=7:staff a b\n",
            2,
            "with --link, --chown takes no name as \"staff\"",
            Some("use numeric ids, or leave --link out"),
        ),
        (
            "ARG O=app\nADD --link --chown=$O --chmod=$NOT a b\n",
            3,
            "with --link, --chown takes no name as \"app\"",
            Some("use numeric ids, or leave --link out"),
        ),
        ("COPY <<E /e\n${X!}\nE\n", 2, "unsupported modifier (!) in substitution of ${X}", None),
    ] {
        let error = error(&format!("FROM scratch\n{text}"));
        assert_eq!((error.position.first_line, error.message.as_str(), error.hint.as_deref()), (line, expected, hint), "{text}");
        assert!(error.focus.is_some(), "{text}");
    }
    let dockerfile =
        dockerfile::parse("FROM scratch\nARG A=1 B=${C:?no}\nENV A=1 B=${C:?no}\nEXPOSE 1 x\nVOLUME /a $B\n").unwrap();
    let none = BTreeMap::new();
    let scope = Scope { escape: '\\', build_args: &none, global_args: &none, platform_args: &none };
    let before = State::scratch(&Platform::linux_amd64());
    for instruction in &dockerfile.stages[0].instructions {
        let mut state = before.clone();
        state.apply(instruction, scope).unwrap_err();
        assert_eq!(state, before, "{}", instruction.original);
    }
}

#[test]
fn scratch_and_images_have_a_platform() {
    let arm: Platform = "linux/arm/v7".parse().unwrap();
    let scratch = State::scratch(&arm).config;
    assert_eq!((scratch.architecture.as_str(), scratch.variant.as_deref()), ("arm", Some("v7")));
    assert_eq!(scratch.config.env, [format!("PATH={DEFAULT_PATH}")]);
    let image = ImageConfig { architecture: "arm64".to_owned(), variant: Some("v8".to_owned()), ..config("{}") };
    assert_eq!(State::from_image(image).config.variant, None, "v8 of arm64 says nothing");
}
