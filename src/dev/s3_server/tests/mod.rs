//! The real SDK against the server: every operation, every fault, and the server's own life.

use std::time::Duration;

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::{RequestId, get_object::GetObjectOutput},
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier},
};
use aws_smithy_runtime_api::http::Response;

use super::*;

mod faults;
mod kept;
mod life;
mod multipart;
mod objects;
mod tagging;

const MIB: usize = 1024 * 1024;

async fn server() -> (S3Server, Client) {
    let server = S3Server::start().await.unwrap();
    server.create_bucket("b");
    let client = client_of(&server);
    (server, client)
}

fn settings_of(server: &S3Server) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .credentials_provider(server.credentials())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .retry_config(RetryConfig::disabled())
}

fn client_of(server: &S3Server) -> Client {
    Client::from_conf(settings_of(server).build())
}

async fn put(client: &Client, key: &str, bytes: impl Into<ByteStream>) {
    client
        .put_object()
        .bucket("b")
        .key(key)
        .body(bytes.into())
        .send()
        .await
        .unwrap();
}

async fn bytes_of(output: GetObjectOutput) -> Vec<u8> {
    output.body.collect().await.unwrap().to_vec()
}

/// Status and code of an answer that is an error.
fn refusal<E: ProvideErrorMetadata>(error: &SdkError<E, Response>) -> (u16, String) {
    let status = error.raw_response().expect("an answer").status().as_u16();
    (status, error.code().unwrap_or("none").to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Bytes that differ along the way, so that a shifted copy is not equal.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

async fn begin_upload(client: &Client) -> String {
    let create = client
        .create_multipart_upload()
        .bucket("b")
        .key("big")
        .metadata("m", "1");
    create.send().await.unwrap().upload_id.unwrap()
}

async fn upload_part(client: &Client, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let part = client
        .upload_part()
        .bucket("b")
        .key("big")
        .upload_id(id)
        .part_number(number);
    let etag = part.body(bytes.into()).send().await.unwrap().e_tag.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .e_tag(etag)
        .build()
}

fn complete(
    client: &Client,
    id: &str,
    parts: Vec<CompletedPart>,
) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder
{
    let upload = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client.complete_multipart_upload().bucket("b").key("big");
    complete.upload_id(id).multipart_upload(upload)
}
