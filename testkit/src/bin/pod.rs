//! Runs a command in a container with the security settings of a kind of pod, for use by hand and by scripts:
//!
//! ```text
//! pod KIND [--rootfs DIRECTORY] [--bind SOURCE:DESTINATION[:ro]]... [--volume DESTINATION]... [--own PATH]... [--env NAME=VALUE]...
//!     [--directory DIRECTORY] [--read-only] [--] COMMAND [ARGUMENT]...
//! pod --list
//! ```
//! Without `--rootfs` the root is a small one of busybox. `--own` gives a file or directory of the host, with all that it holds, to
//! the user of the pod. The exit status is the command's.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use testkit::pod::{Pod, PodKind};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(code) => code,
        Err(wrong) => {
            eprintln!("pod: {wrong}");
            ExitCode::from(64)
        }
    }
}

fn run(words: &[String]) -> Result<ExitCode, String> {
    let (first, mut rest) = words.split_first().ok_or("a kind of pod is missing; see --list")?;
    if first == "--list" {
        for kind in PodKind::ALL {
            println!("{:19} {}", kind.name(), kind.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let kind = PodKind::named(first).ok_or_else(|| format!("no kind of pod is called {first}; see --list"))?;
    let mut pod: Option<Pod> = None;
    if let [option, directory, others @ ..] = rest
        && option == "--rootfs"
    {
        pod = Some(Pod::with_rootfs(kind, Path::new(directory)));
        rest = others;
    }
    let mut pod = pod.unwrap_or_else(|| Pod::new(kind));
    loop {
        rest = match rest {
            [option, others @ ..] if option == "--read-only" => {
                pod = pod.read_only_root();
                others
            }
            [option, others @ ..] if option == "--" => {
                rest = others;
                break;
            }
            [option, value, others @ ..] if option.starts_with("--") => {
                pod = with_option(pod, option, value)?;
                others
            }
            _ => break,
        };
    }
    if rest.is_empty() {
        return Err("a command is missing".to_owned());
    }
    let arguments: Vec<&str> = rest.iter().map(String::as_str).collect();
    let finished = pod.run(&arguments);
    print!("{}", finished.stdout);
    eprint!("{}", finished.stderr);
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    let code = finished.code.and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn with_option(pod: Pod, option: &str, value: &str) -> Result<Pod, String> {
    Ok(match option {
        "--bind" => match value.split(':').collect::<Vec<&str>>()[..] {
            [source, destination] => pod.bind(Path::new(source), destination),
            [source, destination, "ro"] => pod.read_only_bind(Path::new(source), destination),
            _ => return Err(format!("--bind takes SOURCE:DESTINATION[:ro], not {value}")),
        },
        "--env" => {
            let (name, value) = value.split_once('=').ok_or_else(|| format!("--env takes NAME=VALUE, not {value}"))?;
            pod.env(name, value)
        }
        "--volume" => pod.volume(value),
        "--own" => {
            pod.own(Path::new(value));
            pod
        }
        "--directory" => pod.directory(value),
        _ => return Err(format!("unknown option {option}")),
    })
}
