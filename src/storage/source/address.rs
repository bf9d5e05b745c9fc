//! Which IP addresses are public, by the IANA registries of special-purpose addresses (as of 2026).
//!
//! What is not known to be public is not: of IPv6 only the global unicast block counts, and of that not the
//! parts that embed IPv4 addresses or stand in for something. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether anybody on the Internet means the same machine by it.
pub(super) const fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]                // this network, private, loopback
            | [100, 64..=127, ..]         // carrier-grade NAT
            | [169, 254, ..]              // link-local, cloud metadata among it
            | [172, 16..=31, ..]          // private
            | [192, 0, 0 | 2, _]          // protocol assignments, documentation
            | [192, 31, 196, _]           // AS112
            | [192, 52, 193, _]           // AMT
            | [192, 88, 99, _]            // 6to4 relay
            | [192, 168, ..]              // private
            | [192, 175, 48, _]           // AS112
            | [198, 18 | 19, ..]          // benchmarks
            | [198, 51, 100, _]           // documentation
            | [203, 0, 113, _]            // documentation
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

/// `::/3` holds loopback, mapped and translated IPv4 (`::ffff:0:0/96`, `64:ff9b::/96`); `e000::/3` holds unique local,
/// link-local and multicast.
const fn is_public_v6(address: Ipv6Addr) -> bool {
    matches!(address.segments()[0], 0x2000..=0x3fff)
        && !matches!(
            address.segments(),
            [0x2001, 0..=0x01ff, ..]         // protocol assignments: Teredo, ORCHID, benchmarks
                | [0x2001, 0x0db8, ..]       // documentation
                | [0x2002, ..]               // 6to4
                | [0x2620, 0x004f, 0x8000, ..] // AS112
                | [0x3fff, 0..=0x0fff, ..] // documentation
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860::8888",
            "2a00::1",
        ];
        let others = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for (addresses, expected) in [(&public[..], true), (&others[..], false)] {
            for text in addresses {
                assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
            }
        }
    }
}
