//! The language as a whole: what is accepted and what it says, what is refused and how.

use proptest::prelude::*;

use super::*;

/// The instructions in short form, one per line; errors as `line: message (hint)`.
fn read(text: &str) -> String {
    match parse(text) {
        Ok(dockerfile) => {
            let mut lines: Vec<String> = dockerfile.global_args.iter().map(show).collect();
            for stage in &dockerfile.stages {
                let platform = stage.platform.as_ref().map_or(String::new(), |word| format!(" on {}", word.text));
                let name = stage.name.as_ref().map_or(String::new(), |name| format!(" as {}", name.name));
                lines.push(format!("from {}{platform}{name}", stage.base.text));
                lines.extend(stage.instructions.iter().map(show));
            }
            lines.join("\n")
        }
        Err(errors) => show_errors(&errors),
    }
}

fn show_errors(errors: &[ParseError]) -> String {
    let show = |error: &ParseError| {
        let hint = error.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        format!("{}: {}{hint}", error.position.first_line, error.message)
    };
    errors.iter().map(show).collect::<Vec<_>>().join("\n")
}

fn show(instruction: &Instruction) -> String {
    let word = |word: &Word| format!("[{}]", word.text);
    let words = |words: &[Word]| words.iter().map(word).collect::<String>();
    let pairs = |pairs: &Pairs| {
        let pair = |pair: &Pair| format!("[{}={}]", pair.key.text, pair.value.text);
        let legacy = if pairs.legacy { "legacy " } else { "" };
        format!("{legacy}{}", pairs.pairs.iter().map(pair).collect::<String>())
    };
    let command = |command: &Command| match command {
        Command::Shell(text) => format!("sh [{}]", text.text),
        Command::Exec(arguments) => format!("exec {arguments:?}"),
    };
    let option = |name: &str, value: &Option<Word>| match value {
        Some(value) => format!(" {name}=[{}]", value.text),
        None => String::new(),
    };
    let sources = |sources: &[Source]| {
        let source = |source: &Source| match source {
            Source::Path(path) => format!("[{}]", path.text),
            Source::Heredoc(heredoc) => format!("<{}{:?}>", heredoc.name, heredoc.body()),
        };
        sources.iter().map(source).collect::<String>()
    };
    match &instruction.kind {
        InstructionKind::Arg(args) => {
            let arg = |arg: &ArgPair| match &arg.value {
                Some(value) => format!("[{}={}]", arg.name, value.text),
                None => format!("[{}]", arg.name),
            };
            format!("arg {}", args.iter().map(arg).collect::<String>())
        }
        InstructionKind::Env(env) => format!("env {}", pairs(env)),
        InstructionKind::Label(label) => format!("label {}", pairs(label)),
        InstructionKind::Run(run) => match run.script() {
            RunScript::Shell(text) => format!("run sh {text:?}"),
            RunScript::File { name, body } => format!("run file {name} {body:?}"),
            RunScript::Exec(arguments) => format!("run exec {arguments:?}"),
        },
        InstructionKind::Copy(copy) => format!(
            "copy {} to {}{}{}{}{}{}",
            sources(&copy.sources),
            word(&copy.destination),
            option("from", &copy.from),
            option("chown", &copy.chown),
            option("chmod", &copy.chmod),
            if copy.link { " link" } else { "" },
            if copy.parents { " parents" } else { "" },
        ),
        InstructionKind::Add(add) => format!(
            "add {} to {}{} keep={:?} unpack={:?}",
            sources(&add.sources),
            word(&add.destination),
            option("checksum", &add.checksum),
            add.keep_git_dir,
            add.unpack
        ),
        InstructionKind::Workdir(path) => format!("workdir {}", word(path)),
        InstructionKind::User(user) => format!("user {}", word(user)),
        InstructionKind::Cmd(cmd) => format!("cmd {}", command(cmd)),
        InstructionKind::Entrypoint(entrypoint) => format!("entrypoint {}", command(entrypoint)),
        InstructionKind::Expose(ports) => format!("expose {}", words(ports)),
        InstructionKind::Volume(paths) => format!("volume {}", words(paths)),
        InstructionKind::Stopsignal(signal) => format!("stopsignal {}", word(signal)),
        InstructionKind::Shell(shell) => format!("shell {shell:?}"),
        InstructionKind::Healthcheck(Healthcheck::None) => "healthcheck none".to_owned(),
        InstructionKind::Healthcheck(Healthcheck::Cmd { command: cmd, interval, retries, .. }) => {
            format!("healthcheck {} every {interval:?} times {retries:?}", command(cmd))
        }
        InstructionKind::Onbuild(onbuild) => format!("onbuild {:?} = {}", onbuild.trigger, show(&onbuild.instruction)),
        InstructionKind::Maintainer(name) => format!("maintainer {}", word(name)),
    }
}

/// Reads instructions of a stage.
fn stage(text: &str) -> String {
    let read = read(&format!("FROM scratch\n{text}"));
    read.strip_prefix("from scratch").map_or(read.clone(), |rest| rest.trim_start().to_owned())
}

#[test]
fn lines_are_joined_as_in_a_shell_but_without_comments_and_empty_lines() {
    for (text, expected) in [
        ("RUN a \\\n b", r#"run sh "a  b""#),
        ("RUN a\\\nb", r#"run sh "ab""#),
        ("RUN a \\  \t\n b", r#"run sh "a  b""#),
        ("RUN a \\\n# comment \\\n  # another\n\n  b", r#"run sh "a   b""#),
        ("RUN a \\", r#"run sh "a""#),
        ("RUN a \\\n\n\n", r#"run sh "a""#),
        ("RUN echo \\\\\nUSER u", "run sh \"echo \\\\\\\\\"\nuser [u]"),
        ("\\\nRUN a", r#"run sh "a""#),
        ("  \t rUn   a  b ", r#"run sh "a  b""#),
        ("RUN a # b", r#"run sh "a # b""#),
        ("RUN a \\\r\n b\r\nUSER u\r\n", "run sh \"a  b\"\nuser [u]"),
        ("ENV A=\"x\\\ny\"", "env [A=\"xy\"]"),
    ] {
        assert_eq!(stage(text), expected, "{text:?}");
    }
}

#[test]
fn directives_count_only_at_the_top() {
    for (text, escape, directives) in [
        ("# escape=`\nFROM a", '`', 1),
        ("#ESCAPE = ` \n# syntax=docker/dockerfile:1 x\n#check=skip=all;error=true\nFROM a", '`', 3),
        ("\u{feff}# escape=`\r\nFROM a", '`', 1),
        ("\n# escape=`\nFROM a", '\\', 0),
        ("# about\n# escape=`\nFROM a", '\\', 0),
        ("# other=1\n# escape=`\nFROM a", '\\', 0),
        ("FROM a\n# escape=`", '\\', 0),
    ] {
        let dockerfile = parse(text).unwrap();
        assert_eq!((dockerfile.escape, dockerfile.directives.len()), (escape, directives), "{text:?}");
    }
    assert_eq!(read("# escape=x\nFROM a"), "1: invalid escape token \"x\": it must be ` or \\");
    assert_eq!(read("# escape=`\n# escape=`\nFROM a"), "2: only one escape parser directive can be used");
    assert!(read("# syntax=r2d4/mocker\nFROM a\nCOYP").starts_with("1: unsupported syntax \"r2d4/mocker\""));
}

#[test]
fn the_escape_directive_changes_continuations() {
    assert_eq!(read("# escape=`\nFROM a\nRUN dir C:\\\nRUN a `\n b"), "from a\nrun sh \"dir C:\\\\\"\nrun sh \"a  b\"");
}

#[test]
fn every_instruction_is_read() {
    for (text, expected) in [
        ("ARG A B= C=\"d e\" D=$A", "arg [A][B=][C=\"d e\"][D=$A]"),
        ("ENV A=1 B='c d' C=e\\ f", "env [A=1][B='c d'][C=e\\ f]"),
        ("ENV ONE hello  \"world\" ", "env legacy [ONE=hello  \"world\"]"),
        ("ENV A=b=c D= \"E F\"=g", "env [A=b=c][D=][\"E F\"=g]"),
        ("LABEL a.b/c=1 \"x y\"=2", "label [a.b/c=1][\"x y\"=2]"),
        ("RUN [\"a\", \"b\\u0041\"]", r#"run exec ["a", "bA"]"#),
        ("RUN ['a']", "run sh \"['a']\""),
        ("RUN [\"a\"] && b", "run sh \"[\\\"a\\\"] && b\""),
        ("RUN", "run sh \"\""),
        ("CMD []", "cmd exec []"),
        ("CMD echo $A", "cmd sh [echo $A]"),
        ("ENTRYPOINT  [  \"a\" ]", "entrypoint exec [\"a\"]"),
        ("COPY a b /c/", "copy [a][b] to [/c/]"),
        ("COPY -dash /d/", "copy [-dash] to [/d/]"),
        ("COPY -- --flag /d", "copy [--flag] to [/d]"),
        ("COPY [\"a b\", \"/c d\"]", "copy [a b] to [/c d]"),
        (
            "COPY --from=0 --chown=1:2 --chmod=u=rwX,go=rX --link --parents=TRUE a /b",
            "copy [a] to [/b] from=[0] chown=[1:2] chmod=[u=rwX,go=rX] link parents",
        ),
        ("COPY --link=false a /b", "copy [a] to [/b]"),
        (
            "ADD --unpack=false --keep-git-dir --checksum=sha256:$S u /b",
            "add [u] to [/b] checksum=[sha256:$S] keep=Some(true) unpack=Some(false)",
        ),
        ("WORKDIR /a b", "workdir [/a b]"),
        ("USER $U:g", "user [$U:g]"),
        ("EXPOSE 80 443/tcp \t $P", "expose [80][443/tcp][$P]"),
        ("VOLUME /a /b", "volume [/a][/b]"),
        ("VOLUME [\"/a b\", \" /c\"]", "volume [/a b][/c]"),
        ("STOPSIGNAL 9", "stopsignal [9]"),
        ("SHELL [\"/bin/ash\", \"-c\"]", r#"shell ["/bin/ash", "-c"]"#),
        ("HEALTHCHECK none", "healthcheck none"),
        (
            "HEALTHCHECK --interval=1m30.5s --retries=7 CMD wget -q x || exit 1",
            "healthcheck sh [wget -q x || exit 1] every Some(90.5s) times Some(7)",
        ),
        ("HEALTHCHECK CMD [\"a\"]", "healthcheck exec [\"a\"] every None times None"),
        ("MAINTAINER A B <c@d>", "maintainer [A B <c@d>]"),
        ("ONBUILD   ENV   K=v ", "onbuild \"ENV   K=v \" = env [K=v]"),
        ("ONBUILD CMD [\"a\", \"b\"]", "onbuild \"CMD [\\\"a\\\", \\\"b\\\"]\" = cmd exec [\"a\", \"b\"]"),
    ] {
        assert_eq!(stage(text), expected, "{text:?}");
    }
}

#[test]
fn stages_and_global_arguments_are_told_apart() {
    assert_eq!(
        read("ARG V=1 W\nfrom --platform=$P busybox:$V aS Build_1\nARG V\nFROM build_1\nUSER u"),
        "arg [V=1][W]\nfrom busybox:$V on $P as build_1\narg [V]\nfrom build_1\nuser [u]"
    );
}

#[test]
fn heredocs_are_read_in_all_forms() {
    for (text, expected) in [
        ("RUN <<EOF\na\nUSER b\n# c\nEOF\nUSER u", "run sh \"a\\nUSER b\\n# c\\n\"\nuser [u]"),
        ("RUN <<-EOF\n\ta\n\t\tEOF", "run sh \"a\\n\""),
        ("RUN <<EOF\n#!/bin/x\na\nEOF", "run file EOF \"#!/bin/x\\na\\n\""),
        ("RUN <<'E F'\na\nE F", "run sh \"a\\n\""),
        ("RUN << EOF\na\nEOF", "run sh \"a\\n\""),
        ("RUN <<EOF bash\na\nEOF", "run sh \"<<EOF bash\\na\\nEOF\""),
        ("RUN cat <<A <<-\"B\" > f\n1\nA\n\t2\n\tB", "run sh \"cat <<A <<-\\\"B\\\" > f\\n1\\nA\\n\\t2\\nB\""),
        ("RUN a && \\\n cat <<E\n1\\\nE", "run sh \"a &&  cat <<E\\n1\\\\\\nE\""),
        ("RUN <<EOF\r\na\r\nEOF\r\nUSER u", "run sh \"a\\r\\n\"\nuser [u]"),
        ("RUN <<EOF\nEOF", "run sh \"\""),
        ("RUN [\"<<EOF\"]", "run exec [\"<<EOF\"]"),
        ("CMD cat <<EOF", "cmd sh [cat <<EOF]"),
        ("COPY <<a.txt <<-'b' x /d/\n1\na.txt\n\t2\nb", "copy [x]<a.txt\"1\\n\"><b\"2\\n\"> to [/d/]"),
        ("COPY << a /d\n1\na", "copy <a\"1\\n\"> to [/d]"),
        ("ADD --chown=1 <<E /d\nE", "add <E\"\"> to [/d] keep=None unpack=None"),
        ("ONBUILD RUN <<E\na\nE", "onbuild \"RUN <<E\\na\\nE\" = run sh \"a\\n\""),
        ("ONBUILD COPY <<E /d\na\nE", "onbuild \"COPY <<E /d\\na\\nE\" = copy <E\"a\\n\"> to [/d]"),
    ] {
        assert_eq!(stage(text), expected, "{text:?}");
    }
}

#[test]
fn errors_name_the_word_the_line_and_the_remedy() {
    for (text, expected) in [
        ("", "1: the Dockerfile is empty: it has no instruction and no build stage (begin with FROM image)"),
        ("# only\n\n", "1: the Dockerfile is empty: it has no instruction and no build stage (begin with FROM image)"),
        ("ARG A", "1: the Dockerfile has no build stage: there is no FROM (begin with FROM image)"),
        ("RUN a\nFROM b\n", "1: no build stage yet: RUN stands before the first FROM (only ARG may stand before FROM)"),
        ("FROM a as", "1: FROM requires either one or three arguments (write FROM image, or FROM image AS name)"),
        ("FROM", "1: FROM requires either one or three arguments (write FROM image, or FROM image AS name)"),
        (
            "FROM a AS 1b",
            "1: invalid name for build stage: \"1b\" (a name begins with a letter and holds letters, digits, '-', '_' and '.')",
        ),
        ("FROM --plattform=x a", "1: unknown flag --plattform for FROM (did you mean --platform?)"),
    ] {
        assert_eq!(read(text), expected, "{text:?}");
    }
    for (text, expected) in [
        ("INSTALL curl", "2: unknown instruction: INSTALL"),
        ("COYP a b", "2: unknown instruction: COYP (did you mean COPY?)"),
        ("RNU <<EOF\nfrom x import y\nEOF", "2: unknown instruction: RNU (did you mean RUN?)"),
        ("COPY --chwon=1:1 a b", "2: unknown flag --chwon for COPY (did you mean --chown?)"),
        (
            "ADD --parents a b",
            "2: unknown flag --parents for ADD (ADD has --chown, --chmod, --checksum, --exclude, --keep-git-dir, --link, --unpack)",
        ),
        ("USER --x u", "2: unknown flag --x for USER (USER has no flags)"),
        ("COPY --from=a --from=b a b", "2: duplicate flag --from: it can be given only once"),
        ("COPY --from a b", "2: missing a value on flag --from (write --from=value)"),
        ("COPY --link= a b", "2: missing a value on flag --link (write --link=true)"),
        ("COPY --link=1 a b", "2: expected true or false for flag --link, not \"1\""),
        (
            "COPY --from=$S a b",
            "2: variable expansion is not supported for --from: \"$S\" (define a stage with FROM and a global ARG, and name that stage)",
        ),
        (
            "COPY",
            "2: COPY requires at least two arguments: the destination could not be determined (write COPY source … destination)",
        ),
        (
            "ADD a",
            "2: ADD requires at least two arguments: the destination could not be determined (write ADD source … destination)",
        ),
        ("COPY a <<E\nE", "2: COPY cannot accept a heredoc as a destination: <<E"),
        (
            "COPY <<'a b' /d\na b",
            "2: COPY takes a heredoc only as a source of its own: <<a b (give it a name without blanks and quotes inside)",
        ),
        ("RUN [\"a\", 1]", "2: the JSON array of RUN must hold strings only (put every element into double quotes)"),
        (
            "RUN <<DONE\na",
            "2: unterminated heredoc: no line \"DONE\" ends it before the end of the file (the end line must hold the name alone, without blanks around it)",
        ),
        ("RUN --network=hots a", "2: unsupported --network \"hots\" (did you mean host?)"),
        ("RUN --security=none a", "2: unsupported --security \"none\" (it can be sandbox, insecure)"),
        ("RUN --mount=type=bnid,target=/x a", "2: unsupported mount type \"bnid\" (did you mean bind?)"),
        (
            "ENV A=1 B",
            "2: ENV: cannot find = in \"B\", must be of the form name=value (put a value with blanks into double quotes)",
        ),
        ("ENV A", "2: ENV A has no value, must be of the form name=value"),
        ("ENV", "2: ENV requires at least one argument"),
        ("ENV =1", "2: a name of ENV is blank (write name=value, without a blank before '=')"),
        ("ARG =1", "2: a name of ARG is blank (write name=value, without a blank before '=')"),
        ("WORKDIR", "2: WORKDIR requires exactly one argument"),
        ("VOLUME [\"\"]", "2: a path of VOLUME is an empty string"),
        ("SHELL sh -c", "2: SHELL requires the arguments to be in JSON form (write SHELL [\"/bin/sh\", \"-c\"])"),
        ("SHELL []", "2: SHELL requires at least one argument"),
        (
            "HEALTHCHECK --interval=5s wget x",
            "2: unknown type \"wget\" of HEALTHCHECK: it must be CMD or NONE (write HEALTHCHECK [flags] CMD command)",
        ),
        ("HEALTHCHECK CMD", "2: missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "2: HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK --timeout=5 CMD x", "2: invalid duration for --timeout: \"5\" is no duration (write 30s, 1m30s or 500ms)"),
        ("HEALTHCHECK --timeout=5us CMD x", "2: invalid duration for --timeout: \"5us\" is less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "2: invalid value for --retries: \"-1\" is not a number from 0"),
        ("ONBUILD", "2: ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN a", "2: ONBUILD cannot be chained: ONBUILD ONBUILD is not allowed"),
        ("ONBUILD FROM a", "2: FROM is not allowed as an ONBUILD trigger"),
        ("ONBUILD CPOY a b", "2: unknown instruction: CPOY (did you mean COPY?)"),
        ("\\\n", "2: a line continuation without an instruction"),
    ] {
        assert_eq!(stage(text), expected, "{text:?}");
    }
}

#[test]
fn independent_errors_are_reported_together_in_the_order_of_the_file() {
    let text = "RUN a\nFROM a\nCOYP b c\n\nRUN <<E\nbody\nE\nCOPY --form=x a b\nENV A\n";
    assert_eq!(
        read(text),
        "1: no build stage yet: RUN stands before the first FROM (only ARG may stand before FROM)\n\
         3: unknown instruction: COYP (did you mean COPY?)\n\
         8: unknown flag --form for COPY (did you mean --from?)\n\
         9: ENV A has no value, must be of the form name=value"
    );
    assert_eq!(parse(&"X\n".repeat(1000)).unwrap_err().len(), 20);
}

#[test]
fn a_line_may_be_65535_bytes_long() {
    let fits = format!("FROM a\nENV A={}\n", "x".repeat(65_535 - 6));
    assert!(parse(&fits).is_ok());
    assert!(read(&fits.replace("A=", "A=x")).starts_with("2: line 2 is longer than the 65535 bytes allowed"));
}

#[test]
fn positions_point_into_the_source() {
    let text = "\u{feff}# c\n\nFROM a AS b\n  COPY --from=x \\\n  # no\n    ü \\\n\n  \"d\\\n  e\"\nRUN cat <<E\nbody\nE\n";
    let dockerfile = parse(text).unwrap();
    let source = &dockerfile.source;
    let at = |position: Position| {
        let Position { first_line, last_line, column, span } = position;
        format!("{first_line}-{last_line}:{column} {:?}", &source[span.start..span.end])
    };
    let stage = &dockerfile.stages[0];
    assert_eq!(at(stage.position), r#"3-3:1 "FROM a AS b""#);
    assert_eq!(at(stage.name.as_ref().unwrap().as_keyword.position), r#"3-3:8 "AS""#);
    assert_eq!(stage.comments, [Comment { text: "c".to_owned(), line: 1 }]);
    let copy = &stage.instructions[0];
    assert_eq!(at(copy.keyword.position), r#"4-4:3 "COPY""#);
    assert_eq!((copy.position.first_line, copy.position.last_line), (4, 9));
    assert_eq!(copy.empty_continuation_lines, [7]);
    let InstructionKind::Copy(kind) = &copy.kind else { panic!("no COPY") };
    assert_eq!(at(kind.from.as_ref().unwrap().position), r#"4-4:8 "--from=x""#);
    let [Source::Path(first), Source::Path(second)] = kind.sources.as_slice() else { panic!("{:?}", kind.sources) };
    assert_eq!(at(first.position), r#"6-6:5 "ü""#);
    assert_eq!(at(second.position), r#"8-8:3 "\"d""#);
    assert_eq!(at(kind.destination.position), r#"9-9:3 "e\"""#);
    let run = &stage.instructions[1];
    assert_eq!(at(run.position), "10-12:1 \"RUN cat <<E\\nbody\\nE\"");
    let InstructionKind::Run(kind) = &run.kind else { panic!("no RUN") };
    assert_eq!(at(kind.heredocs[0].position), "11-11:1 \"body\\n\"");
}

#[test]
fn the_focus_of_an_error_is_the_wrong_word() {
    let text = "FROM a\nCOPY \\\n  --chwon=1 a b\n";
    let error = &parse(text).unwrap_err()[0];
    assert_eq!(error.position.first_line, 2);
    let focus = error.focus.unwrap();
    assert_eq!((focus.first_line, &text[focus.span.start..focus.span.end]), (3, "--chwon=1"));
}

#[test]
fn triggers_are_single_instructions() {
    let trigger = |text: &str| parse_trigger(text).map_or_else(|errors| show_errors(&errors), |found| show(&found));
    for (text, expected) in [
        ("COPY . /app", "copy [.] to [/app]"),
        ("RUN <<E\na\nE", "run sh \"a\\n\""),
        ("ENV   K=v", "env [K=v]"),
        ("", "1: an ONBUILD trigger must be one instruction, not 0"),
        ("USER a\nUSER b", "1: an ONBUILD trigger must be one instruction, not 2"),
        ("FROM a", "1: FROM is not allowed as an ONBUILD trigger"),
        ("ONBUILD RUN a", "1: ONBUILD is not allowed as an ONBUILD trigger"),
        ("MAINTAINER a", "1: MAINTAINER is not allowed as an ONBUILD trigger"),
        ("CPOY a b", "1: unknown instruction: CPOY (did you mean COPY?)"),
    ] {
        assert_eq!(trigger(text), expected, "{text:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_tolerated_in_comments_only() {
    let read = |bytes: &[u8]| parse_bytes(bytes).map(|_| ()).map_err(|errors| show_errors(&errors));
    assert_eq!(read(b"# gr\xfc\xdfe\nFROM a\nRUN b \\\n # \xfc\n c\n"), Ok(()));
    assert_eq!(read("\u{feff}FROM ü".as_bytes()), Ok(()));
    let refused = "3: line 3 is not valid UTF-8 (column 5) (save the file in UTF-8)".to_owned();
    assert_eq!(read(b"# \xfc\nFROM a\nENV \xfc=1\n"), Err(refused));
    let refused = "3: line 3 is not valid UTF-8 (column 3) (save the file in UTF-8)".to_owned();
    assert_eq!(read(b"FROM a\nCOPY <<E /f\n# \xfc\nE\n"), Err(refused));
}

#[test]
fn two_thousand_lines_are_a_matter_of_size_only() {
    // Not timed; a quadratic parser would not come back from this one.
    let line = format!("ENV {}\n", "A=b ".repeat(15_000));
    let text = format!("FROM a\n{}{}RUN a {}", line.repeat(20), "RUN a \\\n b\n".repeat(2000), "\\\n && b".repeat(50_000));
    assert_eq!(parse(&text).unwrap().stages[0].instructions.len(), 20 + 2000 + 1);
    let hopeless = format!("FROM a\nRUN {}", "<<A ".repeat(5000));
    assert!(parse(&hopeless).is_err());
}

#[test]
fn every_dockerfile_of_the_corpus_is_read() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/conformance/cases");
    // These are refused by the text alone; all other errors show only when variables or files are known.
    let refused = [
        "error-bad-flag",
        "error-empty-dockerfile",
        "error-env-syntax",
        "error-from-words",
        "error-healthcheck-bad",
        "error-json-not-strings",
        "error-no-arguments",
        "error-no-from",
        "error-onbuild-chain",
        "error-unknown-instruction",
        "error-unterminated-heredoc",
    ];
    for case in std::fs::read_dir(corpus).unwrap().map(|case| case.unwrap().path()) {
        let description = std::fs::read_to_string(case.join("case.json")).unwrap();
        let description: serde_json::Value = serde_json::from_str(&description).unwrap();
        let name = description["dockerfile_name"].as_str().unwrap_or("Dockerfile");
        let name =
            [case.join(name), case.join("Dockerfile"), case.join("context").join(name)].into_iter().find(|path| path.exists());
        let Some(path) = name else { panic!("no Dockerfile in {case:?}") };
        let result = parse_bytes(&std::fs::read(path).unwrap());
        let case = case.file_name().unwrap().to_str().unwrap();
        match result {
            Ok(_) => assert!(!refused.contains(&case), "{case} is accepted"),
            Err(errors) => {
                assert!(refused.contains(&case), "{case}: {}", show_errors(&errors));
                if let Some(line) = description["error_line"].as_u64() {
                    assert_eq!(errors[0].position.first_line as u64, line, "{case}");
                }
            }
        }
    }
}

/// Lines that look like Dockerfiles more often than random text does.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let word = proptest::sample::select(vec![
        "FROM a",
        "FROM a AS b",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "LABEL",
        "ONBUILD",
        "HEALTHCHECK",
        "CMD",
        "SHELL",
        "EXPOSE",
        "VOLUME",
        "--mount=",
        "type=cache,",
        "target=/x",
        "--from=",
        "--link",
        "--",
        "[\"a\",",
        "\"b\"]",
        "A=b",
        "<<E",
        "<<-'E'",
        "E",
        "\nE\n",
        "\n",
        "\r\n",
        "\\\n",
        "\\",
        "`",
        "#",
        "# escape=`\n",
        "# syntax=x\n",
        "'",
        "\"",
        "$A",
        "${A:-b}",
        "\t",
        " ",
        "ü",
        "CMD",
        "NONE",
        "--interval=1s",
        "=",
        "\u{a0}",
        "\u{85}",
        "\u{feff}",
    ]);
    let part = (word, prop::bool::ANY).prop_map(|(word, blank)| if blank { format!("{word} ") } else { word.to_owned() });
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn parsing_never_panics(text in dockerfile_like(), noise in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&noise);
        let _ = parse_bytes(&bytes);
        let _ = parse_trigger(&text);
        match parse(&text) {
            Ok(dockerfile) => {
                for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
                    let Position { first_line, last_line, span, .. } = instruction.position;
                    prop_assert!(first_line <= last_line);
                    prop_assert!(dockerfile.source.get(span.start..span.end).is_some());
                }
            }
            Err(errors) => {
                let source = text.strip_prefix('\u{feff}').unwrap_or(&text);
                for error in errors {
                    for Position { span, .. } in error.focus.into_iter().chain([error.position]) {
                        prop_assert!(source.get(span.start..span.end).is_some(), "{}", error);
                    }
                }
            }
        }
    }

    #[test]
    fn an_instruction_without_heredocs_says_the_same_when_written_in_one_line(text in dockerfile_like()) {
        let Ok(dockerfile) = parse(&format!("FROM a\n{text}")) else { return Ok(()) };
        prop_assume!(dockerfile.escape == '\\' && !text.contains("<<"));
        for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
            // A trailing escape character of a joined line would continue a line of its own.
            prop_assume!(!instruction.original.trim_end().ends_with('\\'));
            let again = parse_trigger(&instruction.original);
            match &instruction.kind {
                InstructionKind::Onbuild(_) | InstructionKind::Maintainer(_) => {}
                _ => prop_assert_eq!(again.map(|again| show(&again)), Ok(show(instruction))),
            }
        }
    }
}
