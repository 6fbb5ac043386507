//! Produces a record in Kafka's wire protocol. There the name of a header may be any bytes, while every client takes only
//! text.

use std::time::Duration;

use anyhow::{Context, ensure};
use theater_tests::schema_conformance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(20);

const PRODUCE: i16 = 0;
const VERSION: i16 = 3;

/// Produces a record with these headers to partition 0, of which the first broker must be the leader. Returns its offset.
pub(crate) async fn produce(
    bootstrap: &str,
    topic: &str,
    key: &[u8],
    value: &[u8],
    headers: &[(&[u8], &[u8])],
) -> anyhow::Result<i64> {
    let broker = bootstrap.split(',').next().context("no broker")?;
    let answer = tokio::time::timeout(TIMEOUT, async {
        let mut stream = TcpStream::connect(broker).await?;
        stream.write_all(&with_length(&request(topic, &batch(&record(key, value, headers))))).await?;
        let size = usize::try_from(stream.read_i32().await?)?;
        let mut answer = vec![0; size];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    })
    .await??;
    // The response: correlation id, number of topics, name, number of partitions, index; then the error code and the
    // offset.
    let error_at = 4 + 4 + 2 + topic.len() + 4 + 4;
    let code = answer.get(error_at..error_at + 2).with_context(|| format!("a short answer: {answer:?}"))?;
    ensure!(code == [0, 0], "the broker answers with error {code:?}");
    let offset = answer.get(error_at + 2..error_at + 10).context("a short answer")?;
    let offset = i64::from_be_bytes(offset.try_into()?);
    schema_conformance::exclude_record(topic, 0, offset);
    Ok(offset)
}

fn request(topic: &str, batch: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(PRODUCE.to_be_bytes());
    request.extend(VERSION.to_be_bytes());
    request.extend(7_i32.to_be_bytes());
    request.extend(string("raw"));
    // No transactional id, acknowledged by all in-sync replicas, within 10 s.
    request.extend((-1_i16).to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(string(topic));
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(with_length(batch));
    request
}

/// A batch of one record in format 2, the one with headers.
fn batch(record: &[u8]) -> Vec<u8> {
    let now = chrono::Utc::now().timestamp_millis();
    let mut checked = Vec::new();
    // Attributes, delta of the last offset, first and last timestamp; no producer id, epoch and sequence; one record.
    checked.extend(0_i16.to_be_bytes());
    checked.extend(0_i32.to_be_bytes());
    checked.extend(now.to_be_bytes());
    checked.extend(now.to_be_bytes());
    checked.extend((-1_i64).to_be_bytes());
    checked.extend((-1_i16).to_be_bytes());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes());
    checked.extend(record);

    // Leader epoch, format, checksum.
    let mut rest = Vec::new();
    rest.extend((-1_i32).to_be_bytes());
    rest.push(2);
    rest.extend(crc32c(&checked).to_be_bytes());
    rest.extend(checked);

    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend(with_length(&rest));
    batch
}

fn record(key: &[u8], value: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    // Attributes, and the deltas of timestamp and offset.
    let mut record = vec![0, 0, 0];
    record.extend(with_varint_length(key));
    record.extend(with_varint_length(value));
    record.extend(varint(headers.len()));
    for (name, content) in headers {
        record.extend(with_varint_length(name));
        record.extend(with_varint_length(content));
    }
    with_varint_length(&record)
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

fn with_varint_length(bytes: &[u8]) -> Vec<u8> {
    [&varint(bytes.len())[..], bytes].concat()
}

/// A variable-length integer: seven bits a byte, zigzag-encoded (a number that is not negative is doubled).
fn varint(number: usize) -> Vec<u8> {
    let mut rest = number * 2;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
    bytes
}

/// CRC-32C (Castagnoli), the checksum of Kafka's batches.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
