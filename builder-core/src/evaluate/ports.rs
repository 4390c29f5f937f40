//! EXPOSE: ports, ranges, protocols. Pure.

use std::net::IpAddr;

/// Why a text names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    #[error("invalid port {0:?}: expected a number from 0 to 65535 or a range of two")]
    Number(String),
    #[error("invalid port range {0:?}: its end is before its start")]
    Backwards(String),
    #[error("invalid port {0:?}: what stands before it must be an address of the host and a port of it")]
    Address(String),
    #[error("invalid port {0:?}: the protocol must be tcp, udp or sctp")]
    Protocol(String),
}

/// The ports that `text` names, each as `80/tcp`.
pub(super) fn parse(text: &str) -> Result<Vec<String>, PortError> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    // `80/` has no protocol, which is tcp.
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PortError::Protocol(text.to_owned()));
    }
    // `8080:80` and `127.0.0.1::80` publish a port with `docker run`; an image keeps the container's part.
    let (host, numbers) = numbers.rsplit_once(':').unwrap_or(("", numbers));
    let (address, host_ports) = host.rsplit_once(':').unwrap_or(("", host));
    let address = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(PortError::Address(text.to_owned()));
    }
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| plain).ok_or_else(|| PortError::Number(text.to_owned()))
    };
    let range = |numbers: &str| {
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(PortError::Backwards(text.to_owned())) } else { Ok(first..=last) }
    };
    if !host_ports.is_empty() {
        range(host_ports)?;
    }
    Ok(range(numbers)?.map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_ranges_and_protocols() {
        for (text, expected) in [
            ("80", Ok(vec!["80/tcp"])),
            ("53/UDP", Ok(vec!["53/udp"])),
            ("8000-8002", Ok(vec!["8000/tcp", "8001/tcp", "8002/tcp"])),
            ("8080:80", Ok(vec!["80/tcp"])),
            ("127.0.0.1::80/udp", Ok(vec!["80/udp"])),
            ("80/", Ok(vec!["80/tcp"])),
            ("::::80", Ok(vec!["80/tcp"])),
            ("localhost:1:80", Err(PortError::Address("localhost:1:80".to_owned()))),
            ("x:80", Err(PortError::Number("x:80".to_owned()))),
            ("80:", Err(PortError::Number("80:".to_owned()))),
            ("+80", Err(PortError::Number("+80".to_owned()))),
            ("eighty", Err(PortError::Number("eighty".to_owned()))),
            ("65536", Err(PortError::Number("65536".to_owned()))),
            ("9-8", Err(PortError::Backwards("9-8".to_owned()))),
            ("80/quic", Err(PortError::Protocol("80/quic".to_owned()))),
            ("", Err(PortError::Number(String::new()))),
        ] {
            let expected = expected.map(|ports| ports.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
