//! Fields of messages that this version does not know: each name is told of once a process.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The names that were told of; shared by the lanes of a process.
#[derive(Debug, Default)]
pub struct UnknownFields(
    /// Nothing awaits under it.
    Mutex<HashSet<String>>,
);

impl UnknownFields {
    /// As many names as are told of: whoever sends others each time can't fill log or memory.
    const MOST: usize = 100;

    /// Whether the name is to be told of now.
    pub(super) fn is_new(&self, name: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < Self::MOST && !told.contains(name) && told.insert(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_of_once_and_not_more_than_a_hundred_are() {
        let fields = UnknownFields::default();
        assert!(fields.is_new("a") && !fields.is_new("a"));
        let new = (0..1_000).filter(|number| fields.is_new(&number.to_string()));
        assert_eq!(new.count(), 99);
    }
}
