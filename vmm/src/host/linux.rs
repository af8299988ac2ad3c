//! The host's kernel, of which a few decisions depend on how new it is.

use serde::Serialize;

use super::HostError;
use super::root::Root;

/// Version of a Linux kernel, as far as features are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LinuxVersion(pub u32, pub u32);

impl LinuxVersion {
    /// Of the running kernel; `None` where a snapshot does not say.
    pub(super) fn read(root: &Root) -> Result<Option<Self>, HostError> {
        Ok(root.text("/proc/sys/kernel/osrelease")?.and_then(|release| Self::parse(&release)))
    }

    /// From a release such as `6.12.90+deb12-amd64`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

impl std::fmt::Display for LinuxVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linux {}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        for (release, version) in [
            ("6.12.90+deb12-amd64", Some(LinuxVersion(6, 12))),
            ("6.1.0-39-amd64", Some(LinuxVersion(6, 1))),
            ("7.0-rc1", Some(LinuxVersion(7, 0))),
            ("5.14.0-427.el9", Some(LinuxVersion(5, 14))),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(LinuxVersion::parse(release), version, "{release}");
        }
        assert!(
            LinuxVersion(6, 9) < LinuxVersion(6, 15) && LinuxVersion(6, 15) < LinuxVersion(7, 0)
        );
    }
}
