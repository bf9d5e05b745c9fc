//! The ledger's part of an upload, in memory.

use std::sync::{Arc, Mutex};

use crate::{
    job::{BegunUpload, UploadNote},
    storage::UploadMemory,
};

/// A memory as the ledger is one, and the notes in their order.
#[derive(Clone, Default)]
pub(in crate::storage) struct Memory(Arc<Mutex<(Option<BegunUpload>, Vec<&'static str>)>>);

impl Memory {
    pub(in crate::storage) fn of(begun: BegunUpload) -> Self {
        Self(Arc::new(Mutex::new((Some(begun), Vec::new()))))
    }

    pub(in crate::storage) fn notes(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().1.clone()
    }

    pub(in crate::storage) fn begun(&self) -> BegunUpload {
        self.0.lock().unwrap().0.clone().unwrap()
    }

    pub(in crate::storage) fn port(&self, is_ours: bool) -> UploadMemory {
        let (recalled, noted) = (self.clone(), self.clone());
        UploadMemory::new(
            move || {
                let begun = recalled.0.lock().unwrap().0.clone();
                Box::pin(async { Ok(begun) })
            },
            move |note| {
                let mut memory = noted.0.lock().unwrap();
                let word = match note {
                    UploadNote::Begun(begun) => {
                        memory.0 = Some(begun);
                        "begun"
                    }
                    UploadNote::Completed(_) => "completed",
                    UploadNote::Doomed(_) => {
                        memory.0 = None;
                        "doomed"
                    }
                    UploadNote::Gone(_) => {
                        memory.0 = None;
                        "gone"
                    }
                };
                memory.1.push(word);
                Box::pin(async move { Ok(is_ours) })
            },
        )
    }
}
