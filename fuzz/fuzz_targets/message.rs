//! Any body must decode or be refused, without a panic; what decodes keeps to the rules and reads back.
#![no_main]

use bucket_brigade::job::{
    Lane, Message, Operation, Timestamp,
    operation::{Destination, SourceRef},
    place::{Origin, Origins, Roots},
    wire::{Rules, decode, encode},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let rules = Rules {
        max_message_bytes: 1 << 20,
        destination_roots: Roots::new("destinations.file_roots", vec!["/srv/out".into()]),
        source_roots: Roots::new("sources.file_roots", vec!["/srv/in".into()]),
        source_origins: Origins::new(Origin::parse("cdn.example.com").into_iter().collect()),
    };
    let now = Timestamp::from_micros(1_800_000_000_000_000);
    let message = Message {
        message_id: Some("job-1".to_owned()),
        body: body.to_vec().into(),
        ..Message::default()
    };
    for lane in Lane::ALL {
        let Ok(job) = decode(&message, lane, &rules, now) else { continue };
        match &job.operation {
            Operation::UploadFileobj(upload) => match &upload.source {
                SourceRef::File(file) => assert!(file.starts_with("/srv/in")),
                SourceRef::Url(url) => assert!(rules.source_origins.check(url).is_ok()),
            },
            Operation::GetObject(get) => {
                if let Destination::File(file) = &get.destination {
                    assert!(file.starts_with("/srv/out"));
                }
            }
            _ => {}
        }
        let again = decode(&encode(&job.id, &job.operation, &job.headers, now), lane, &rules, now);
        assert_eq!(again.map(|job| job.operation), Ok(job.operation));
    }
});
