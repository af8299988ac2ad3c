//! Sizes of the pages that back guest memory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Size of the pages that back guest memory; reads and prints like `1G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PageSize {
    /// Base pages, 4 KiB.
    #[serde(rename = "4K")]
    Size4K,
    /// hugetlb pages of 2 MiB.
    #[serde(rename = "2M")]
    Size2M,
    /// hugetlb pages of 1 GiB.
    #[serde(rename = "1G")]
    Size1G,
}

impl PageSize {
    /// Bytes in one page.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 4 << 10,
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }

    /// The kernel's name for the pool of such pages, as in `/sys/kernel/mm/hugepages`. Base pages
    /// have no pool.
    pub fn pool_folder(self) -> String {
        format!("hugepages-{}kB", self.bytes() >> 10)
    }

    /// The folder of a node's pool, or of the only one where the kernel knows of no nodes.
    pub fn pool(self, node: Option<u32>) -> String {
        let folder = match node {
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages"),
            None => "/sys/kernel/mm/hugepages".to_owned(),
        };
        format!("{folder}/{}", self.pool_folder())
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4K",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

impl FromStr for PageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "4K" => Ok(Self::Size4K),
            "2M" => Ok(Self::Size2M),
            "1G" => Ok(Self::Size1G),
            _ => Err(format!("`{text}` is not a page size; expected 1G, 2M or 4K")),
        }
    }
}
