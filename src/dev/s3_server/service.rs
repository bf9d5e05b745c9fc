//! The S3 operations over the store: requests that s3s has read and checked, answers as S3 gives them.
//!
//! Owns the translation between S3's shapes and the store. It refuses to know HTTP, signatures
//! and all faults but one. No versions: the only version id that exists is `null`. What is not here is `NotImplemented`.

use std::{sync::Arc, time::SystemTime};

use s3s::{S3, S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    kept::{check_lock, said_of_copy},
    receive::{digest_of, receive, whole_checksum},
    shapes::{
        MOST_KEYS, RefusedKeys, attributes_of, check_read, delete_each, encoded, headers_of,
        only_version_null, query, read, shown, source_of, tag_count, tag_set, tags, tags_of,
    },
    store::{After, Attributes, CompletePart, Conditions, Store},
};

const MOST_DELETES: usize = 1_000;

/// S3 over a store.
#[derive(Debug, Clone)]
pub(super) struct Service(pub(super) Arc<Store>);

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let buckets = self.0.buckets().into_iter().map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            ..Bucket::default()
        });
        answer(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..ListBucketsOutput::default()
        })
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        match self
            .0
            .create_bucket(&req.input.bucket)
            .map_err(S3Error::internal_error)?
        {
            true => answer(CreateBucketOutput::default()),
            false => Err(s3_error!(BucketAlreadyOwnedByYou)),
        }
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        self.0.delete_bucket(&req.input.bucket)?;
        answer(DeleteBucketOutput {})
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        answer(HeadBucketOutput::default())
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        answer(GetBucketLocationOutput::default())
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let body = req.input.body.take();
        check_lock(&req.headers)?;
        let digest = digest_of(&req.headers, req.trailing_headers.take())?;
        let (draft, checksum) = receive(self.0.draft(), body, digest).await?;
        let input = req.input;
        let attributes = Attributes {
            checksum,
            ..attributes_of!(&req.headers, input)
        };
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        let at = (input.bucket.as_str(), input.key.as_str());
        let object = self.0.put(at, draft, attributes, &conditions).await?;
        answer(PutObjectOutput {
            e_tag: Some(object.e_tag()),
            ..PutObjectOutput::default()
        })
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let input = req.input;
        let source = source_of(&self.0, &input.copy_source)?;
        let differs = |condition: &ETagCondition| !source.has_etag(condition);
        if input.copy_source_if_match.as_ref().is_some_and(differs)
            || input
                .copy_source_if_none_match
                .as_ref()
                .is_some_and(|etag| !differs(etag))
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let mut attributes = source.attributes.clone();
        let replaces = |directive: Option<&str>| directive == Some("REPLACE");
        if replaces(
            input
                .metadata_directive
                .as_ref()
                .map(MetadataDirective::as_str),
        ) {
            let Attributes { tags, checksum, .. } = attributes;
            attributes = Attributes {
                tags,
                checksum,
                ..attributes_of!(&req.headers, input)
            };
        } else {
            attributes.headers = said_of_copy(&req.headers, &attributes.headers);
        }
        if replaces(
            input
                .tagging_directive
                .as_ref()
                .map(TaggingDirective::as_str),
        ) {
            attributes.tags = tags(input.tagging.as_deref())?;
        }
        let object = self
            .0
            .copy(&source, (&input.bucket, &input.key), attributes)
            .await?;
        let result = CopyObjectResult {
            e_tag: Some(object.e_tag()),
            last_modified: Some(object.modified.into()),
            ..CopyObjectResult::default()
        };
        answer(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = req.input;
        only_version_null(input.version_id.as_deref())?;
        let object = self.0.object(&input.bucket, &input.key)?;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let (range, content_range) = match input.range {
            None => (0..object.size, None),
            Some(wanted) => {
                let range = wanted.check(object.size)?;
                let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, object.size);
                (range, Some(shown))
            }
        };
        let length = range.end - range.start;
        let body = read(Arc::clone(&object.file), range)
            .await
            .map_err(S3Error::internal_error)?;
        let whole = content_range.is_none();
        let headers = headers_of(&object, whole && input.checksum_mode.is_some());
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body),
            content_length: i64::try_from(length).ok(),
            content_range,
            e_tag: Some(object.e_tag()),
            last_modified: Some(object.modified.into()),
            tag_count: tag_count(&object.attributes.tags),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = req.input;
        only_version_null(input.version_id.as_deref())?;
        let object = self.0.object(&input.bucket, &input.key)?;
        check_read(
            &object,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let headers = headers_of(&object, input.checksum_mode.is_some());
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(object.size).ok(),
            e_tag: Some(object.e_tag()),
            last_modified: Some(object.modified.into()),
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> Answer<GetObjectTaggingOutput> {
        only_version_null(req.input.version_id.as_deref())?;
        let object = self.0.object(&req.input.bucket, &req.input.key)?;
        answer(GetObjectTaggingOutput {
            tag_set: tag_set(&object.attributes.tags),
            version_id: None,
        })
    }

    async fn put_object_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> Answer<PutObjectTaggingOutput> {
        only_version_null(req.input.version_id.as_deref())?;
        let tags = tags_of(req.input.tagging.tag_set)?;
        let at = (req.input.bucket.as_str(), req.input.key.as_str());
        self.0.set_tags(at, tags).await?;
        answer(PutObjectTaggingOutput::default())
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = req.input;
        let after = match &input.continuation_token {
            Some(token) => {
                let bad = || {
                    s3_error!(
                        InvalidArgument,
                        "The continuation token provided is incorrect"
                    )
                };
                Some(After::parse(token).ok_or_else(bad)?)
            }
            None => input.start_after.clone().map(After::Key),
        };
        let (query, most) = query(&input.prefix, &input.delimiter, after, input.max_keys)?;
        let page = self.0.list(&input.bucket, &query)?;
        let count = page.objects.len() + page.common_prefixes.len();
        let next = page.next.as_ref().map(After::token);
        let encoding = input.encoding_type.as_ref();
        let (contents, common_prefixes) = shown(page, encoding);
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoded(query.prefix, encoding)),
            max_keys: Some(most),
            key_count: i32::try_from(count).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents,
            common_prefixes,
            delimiter: input.delimiter.map(|text| encoded(text, encoding)),
            start_after: input.start_after.map(|text| encoded(text, encoding)),
            encoding_type: input.encoding_type,
            request_charged: None,
        })
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let input = req.input;
        // A marker that is a common prefix comes from an earlier page's end, so its keys are done.
        let after = input.marker.clone().map(|marker| match &input.delimiter {
            Some(end) if !end.is_empty() && marker.ends_with(end) => After::CommonPrefix(marker),
            _ => After::Key(marker),
        });
        let (query, most) = query(&input.prefix, &input.delimiter, after, input.max_keys)?;
        let page = self.0.list(&input.bucket, &query)?;
        let next = page
            .next
            .clone()
            .map(|(After::Key(next) | After::CommonPrefix(next))| next);
        // Keys are never URL-encoded here, and the answer does not say that they are.
        let (contents, common_prefixes) = shown(page, None);
        answer(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(query.prefix),
            marker: Some(input.marker.unwrap_or_default()),
            max_keys: Some(most),
            is_truncated: Some(next.is_some()),
            next_marker: next,
            contents,
            common_prefixes,
            delimiter: input.delimiter,
            encoding_type: None,
            request_charged: None,
        })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        only_version_null(req.input.version_id.as_deref())?;
        self.0.delete(&req.input.bucket, &req.input.key)?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let refused = req.extensions.get::<RefusedKeys>().cloned();
        let DeleteObjectsInput { bucket, delete, .. } = req.input;
        self.0.require_bucket(&bucket)?;
        if !(1..=MOST_DELETES).contains(&delete.objects.len()) {
            return Err(s3_error!(
                MalformedXML,
                "1 to {MOST_DELETES} keys can be deleted at once"
            ));
        }
        let (deleted, errors) = delete_each(&self.0, &bucket, delete.objects, refused.as_ref());
        let quiet = delete.quiet.unwrap_or_default();
        answer(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: Some(errors),
            request_charged: None,
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = req.input;
        let attributes = attributes_of!(&req.headers, input);
        let id = self
            .0
            .create_upload((&input.bucket, &input.key), attributes)
            .await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let body = req.input.body.take();
        let digest = digest_of(&req.headers, req.trailing_headers.take())?;
        let (draft, _) = receive(self.0.draft(), body, digest).await?;
        let input = req.input;
        let at = (input.bucket.as_str(), input.key.as_str());
        let part = self
            .0
            .put_part(at, &input.upload_id, input.part_number, draft)
            .await?;
        answer(UploadPartOutput {
            e_tag: Some(part.e_tag()),
            ..UploadPartOutput::default()
        })
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        let input = req.input;
        let source = source_of(&self.0, &input.copy_source)?;
        let range = match &input.copy_source_range {
            None => 0..source.size,
            Some(text) => {
                let wanted =
                    s3s::dto::Range::parse(text).map_err(|_| s3_error!(InvalidArgument))?;
                wanted.check(source.size)?
            }
        };
        let at = (input.bucket.as_str(), input.key.as_str());
        let part = self
            .0
            .copy_part(at, &input.upload_id, input.part_number, (&source, range));
        let part = part.await?;
        let result = CopyPartResult {
            e_tag: Some(part.e_tag()),
            last_modified: Some(part.modified.into()),
            ..CopyPartResult::default()
        };
        answer(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..UploadPartCopyOutput::default()
        })
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let input = req.input;
        let parts = self
            .0
            .parts((&input.bucket, &input.key), &input.upload_id)?;
        let marker = input.part_number_marker.unwrap_or_default();
        let most = input.max_parts.unwrap_or(MOST_KEYS).clamp(0, MOST_KEYS);
        let mut left = parts
            .into_iter()
            .filter(|(number, _)| *number > marker)
            .map(|(number, part)| Part {
                e_tag: Some(part.e_tag()),
                last_modified: Some(part.modified.into()),
                part_number: Some(number),
                size: i64::try_from(part.size).ok(),
                ..Part::default()
            });
        let page: Vec<Part> = left
            .by_ref()
            .take(usize::try_from(most).unwrap_or_default())
            .collect();
        let more = left.next().is_some();
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(more),
            max_parts: Some(most),
            part_number_marker: Some(marker),
            next_part_number_marker: page
                .last()
                .and_then(|part| part.part_number)
                .filter(|_| more),
            parts: Some(page),
            ..ListPartsOutput::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        let named = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default();
        let named: Vec<CompletePart> = named
            .into_iter()
            .map(|part| CompletePart {
                number: part.part_number.unwrap_or_default(),
                etag: part.e_tag,
            })
            .collect();
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        let at = (input.bucket.as_str(), input.key.as_str());
        let checksum = whole_checksum(&req.headers);
        let object = self
            .0
            .complete(at, &input.upload_id, &named, &conditions, checksum)
            .await?;
        answer(CompleteMultipartUploadOutput {
            e_tag: Some(object.e_tag()),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let input = req.input;
        self.0
            .abort((&input.bucket, &input.key), &input.upload_id)?;
        answer(AbortMultipartUploadOutput::default())
    }

    /// One page always; a development server has few uploads under way.
    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        let uploads = self.0.uploads(&input.bucket)?.into_iter();
        let uploads = uploads.filter(|(key, _, _)| key.starts_with(&prefix));
        let uploads = uploads.map(|(key, id, initiated): (_, _, SystemTime)| MultipartUpload {
            key: Some(key),
            upload_id: Some(id),
            initiated: Some(initiated.into()),
            ..MultipartUpload::default()
        });
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: Some(uploads.collect()),
            is_truncated: Some(false),
            prefix: Some(prefix),
            ..ListMultipartUploadsOutput::default()
        })
    }
}
