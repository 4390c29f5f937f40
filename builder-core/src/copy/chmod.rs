//! `--chmod`: octal or symbolic modes. Pure.

/// A parsed value of `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chmod(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Octal(u16),
    Symbolic(Vec<Clause>),
}

/// One action: `u=rwX` is one, `u+r-w` are two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    /// The bits that may change.
    who: u16,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permissions {
    /// Bits, and whether execution is added where it makes sense (`X`).
    Bits { bits: u16, execute_if_sensible: bool },
    /// Those that user, group or others have now: `g=u`. The shift of their three bits.
    CopyOf { shift: u16 },
}

/// A value that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--chmod={0} is neither an octal mode up to 7777 nor a symbolic one such as u=rwX,go=rX")]
pub struct ChmodError(pub String);

/// With nobody named, as in `+w`, these bits are left alone: the usual umask.
const UMASK: u16 = 0o022;

impl Chmod {
    /// Reads `0644`, `4755`, `u=rwX,go=rX`, `+x`, `g=u` and the like.
    ///
    /// # Errors
    /// [`ChmodError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let error = || ChmodError(text.to_owned());
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
            let mode = u16::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o7777);
            return mode.map(|mode| Self(Form::Octal(mode))).ok_or_else(error);
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            actions(clause.as_bytes(), &mut clauses).ok_or_else(error)?;
        }
        Ok(Self(Form::Symbolic(clauses)))
    }

    /// The mode that a file or directory gets which has `mode` now.
    pub fn apply(&self, mode: u16, is_directory: bool) -> u16 {
        match &self.0 {
            Form::Octal(mode) => *mode,
            Form::Symbolic(clauses) => clauses.iter().fold(mode, |now, clause| clause.apply(now, mode, is_directory)),
        }
    }

    /// The mode of a directory that is made for the destination: an octal mode reaches it, with all of its bits.
    pub(super) fn of_made_directory(&self) -> u16 {
        match self.0 {
            Form::Octal(mode) => mode,
            Form::Symbolic(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, now: u16, original: u16, is_directory: bool) -> u16 {
        let bits = match self.permissions {
            Permissions::Bits { bits, execute_if_sensible } => {
                let executes = execute_if_sensible && (is_directory || original & 0o111 != 0);
                bits | if executes { 0o111 } else { 0 }
            }
            Permissions::CopyOf { shift } => ((now >> shift) & 7) * 0o111,
        };
        match self.operator {
            Operator::Add => now | (bits & self.who),
            Operator::Remove => now & !(bits & self.who),
            // The sticky bit goes only by name.
            Operator::Set => (now & !(self.who & 0o6777)) | (bits & self.who),
        }
    }
}

fn actions(clause: &[u8], clauses: &mut Vec<Clause>) -> Option<()> {
    let named = clause.iter().take_while(|byte| b"ugoa".contains(byte)).count();
    let (who, mut left) = clause.split_at(named);
    let who = who.iter().fold(0, |bits, byte| {
        bits | match byte {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o0007,
            _ => 0o6777,
        }
    });
    let who = match who {
        0 => 0o7777 & !UMASK,
        0o0007 => 0o0007,
        who => who | 0o1000,
    };
    if left.is_empty() {
        return None;
    }
    while let [operator, rest @ ..] = left {
        let operator = match operator {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            b'=' => Operator::Set,
            _ => return None,
        };
        let length = rest.iter().take_while(|byte| !b"+-=".contains(byte)).count();
        let (letters, next) = rest.split_at(length);
        clauses.push(Clause { who, operator, permissions: permissions(letters)? });
        left = next;
    }
    Some(())
}

fn permissions(letters: &[u8]) -> Option<Permissions> {
    match letters {
        b"u" => return Some(Permissions::CopyOf { shift: 6 }),
        b"g" => return Some(Permissions::CopyOf { shift: 3 }),
        b"o" => return Some(Permissions::CopyOf { shift: 0 }),
        _ => {}
    }
    let (mut bits, mut execute_if_sensible) = (0, false);
    for letter in letters {
        match letter {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' => execute_if_sensible = true,
            b's' => bits |= 0o6000,
            b't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some(Permissions::Bits { bits, execute_if_sensible })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_symbolic_modes() {
        for (text, file, directory) in [
            ("0640", 0o640, 0o640),
            ("4755", 0o4755, 0o4755),
            ("751", 0o751, 0o751),
            ("0", 0, 0),
            ("u=rwX,go=rX", 0o644, 0o755),
            ("a=rX", 0o444, 0o555),
            ("u+x", 0o744, 0o755),
            ("+x", 0o755, 0o755),
            ("+w", 0o644, 0o755),
            ("=r", 0o444, 0o444),
            ("go-r", 0o600, 0o711),
            ("g=u", 0o664, 0o775),
            ("o=", 0o640, 0o750),
            ("u+s,g+s", 0o6644, 0o6755),
            ("+t", 0o1644, 0o1755),
            ("a+x-w", 0o555, 0o555),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!((chmod.apply(0o644, false), chmod.apply(0o755, true)), (file, directory), "{text}");
        }
        assert_eq!(Chmod::parse("u=rX").unwrap().apply(0o755, false), 0o555, "X counts what was there before");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "rwxq", "888", "10000", "0o755", "u", "u=q", "u=rw,", "=ug", "755x", "-1"] {
            assert_eq!(Chmod::parse(text), Err(ChmodError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn an_octal_mode_reaches_made_directories_with_all_of_its_bits() {
        for (text, expected) in [("1777", 0o1777), ("600", 0o600), ("u+x", 0o755)] {
            assert_eq!(Chmod::parse(text).unwrap().of_made_directory(), expected, "{text}");
        }
    }
}
