//! What is encoded decodes to the same, and no bytes make the decoder panic.

use proptest::prelude::*;

use super::*;
use crate::job::operation::{
    CopyObject, CopySource, DeleteObjects, DeletePrefix, GetObject, HeadObject, ListObjects,
    PutObject, PutObjectTagging, PutOptions, UploadFileobj,
};
use crate::job::options::{BUCKET_KEY, ENCRYPTION};

proptest! {
    #[test]
    fn whatever_we_encode_we_decode_to_the_same(
        key in "[^\u{0}]{1,40}", prefix in proptest::option::of("[^\u{0}]{0,20}"),
        name in "[a-z0-9 .%&ä]{1,20}[a-z]",
        max_keys in 1u32..=10_000, keys in proptest::collection::vec("[^\u{0}]{1,20}", 1..5),
        digest in proptest::option::of(proptest::array::uniform32(any::<u8>())), which in 0..10,
        tags in proptest::collection::btree_map("[^\u{0}\r\n]{1,10}", "[^\u{0}\r\n]{0,10}", 1..=10),
        text in "[!-~]([ -~]{0,20}[!-~])?", switch in any::<bool>(), payer in any::<bool>(),
    ) {
        let bucket = "bucket".to_owned();
        let headers = Headers::default()
            .with("content-disposition", text)
            .with(ENCRYPTION, "aws:kms")
            .with(BUCKET_KEY, switch);
        let of_job = if payer {
            Headers::default().with("x-amz-request-payer", "requester")
        } else {
            Headers::default()
        };
        let operation = match which {
            0 => Operation::PutObject(PutObject {
                bucket, key, body: Bytes::from_static(b"hi"),
                options: PutOptions { sha256: digest, if_none_match: true, headers, ..PutOptions::default() },
            }),
            1 => Operation::ListObjects(ListObjects {
                bucket, prefix, delimiter: None, max_keys, start_after: None,
            }),
            2 => Operation::DeleteObjects(DeleteObjects { bucket, keys }),
            9 => Operation::PutObjectTagging(PutObjectTagging {
                bucket, key, tags, version_id: prefix.filter(|text| !text.is_empty()),
            }),
            7 => Operation::DeletePrefix(DeletePrefix { bucket, prefix: key }),
            8 => Operation::CopyObject(CopyObject {
                source: CopySource { bucket: bucket.clone(), key: key.clone(), version_id: prefix.filter(|it| !it.is_empty()) },
                bucket, key, options: PutOptions { headers, tags, ..PutOptions::default() },
            }),
            3 => Operation::UploadFileobj(UploadFileobj {
                bucket, key, source: SourceRef::File(format!("/srv/in/{name}").into()),
                options: PutOptions { sha256: digest, headers, ..PutOptions::default() },
            }),
            4 => Operation::UploadFileobj(UploadFileobj {
                bucket, key, options: PutOptions::default(),
                source: SourceRef::Url(format!("https://cdn.example.com/{}", name.replace(' ', "_"))),
            }),
            5 => Operation::GetObject(GetObject {
                bucket, key, range: None, version_id: prefix.filter(|text| !text.is_empty()),
                destination: Destination::File(format!("/srv/out/{name}").into()),
            }),
            _ => Operation::HeadObject(HeadObject { bucket, key, version_id: None }),
        };
        let sent = encode(&JobId::fresh(), &operation, &of_job, NOW);
        prop_assert_eq!(decoded(&sent).map(|job| (job.operation, job.headers)), Ok((operation, of_job)));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sent = Message { body: Bytes::from(body), ..message(&json!({})) };
        let lane = Lane::Read;
        prop_assert!(decode(&sent, lane, &rules(), NOW).is_err());
    }
}
