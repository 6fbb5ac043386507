//! A record as no Kafka client would make it, written to the broker in its own protocol: the name of a
//! header may be any bytes there, where clients take text only.

use std::time::Duration;

use anyhow::{Context, ensure};
use theater_tests::promise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(20);

const PRODUCE: i16 = 0;
const VERSION: i16 = 3;

/// Produces a record with these headers to partition 0, of which the first broker is the leader; answers its
/// offset.
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
        stream.write_all(&sized(&request(topic, &batch(&record(key, value, headers))))).await?;
        let size = usize::try_from(stream.read_i32().await?)?;
        let mut answer = vec![0; size];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    })
    .await??;
    // Correlation, one topic, its name, one partition, its index; then how it went.
    let place = 4 + 4 + 2 + topic.len() + 4 + 4;
    let code = answer.get(place..place + 2).with_context(|| format!("a short answer: {answer:?}"))?;
    ensure!(code == [0, 0], "the broker answers with error {code:?}");
    let offset = answer.get(place + 2..place + 10).context("a short answer")?;
    let offset = i64::from_be_bytes(offset.try_into()?);
    promise::put_by_test(topic, 0, offset);
    Ok(offset)
}

fn request(topic: &str, batch: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(PRODUCE.to_be_bytes());
    request.extend(VERSION.to_be_bytes());
    request.extend(7_i32.to_be_bytes());
    request.extend(text("raw"));
    // No transaction, acknowledged by all in sync, within 10 s.
    request.extend((-1_i16).to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(text(topic));
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend(sized(batch));
    request
}

/// A batch of one record, in the format that has headers (2).
fn batch(record: &[u8]) -> Vec<u8> {
    let now = chrono::Utc::now().timestamp_millis();
    let mut checked = Vec::new();
    // Attributes, last offset's delta, first and last moment, no producer's id, epoch and sequence.
    checked.extend(0_i16.to_be_bytes());
    checked.extend(0_i32.to_be_bytes());
    checked.extend(now.to_be_bytes());
    checked.extend(now.to_be_bytes());
    checked.extend((-1_i64).to_be_bytes());
    checked.extend((-1_i16).to_be_bytes());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes());
    checked.extend(record);

    // Leader's epoch, format, checksum.
    let mut rest = Vec::new();
    rest.extend((-1_i32).to_be_bytes());
    rest.push(2);
    rest.extend(crc32c(&checked).to_be_bytes());
    rest.extend(checked);

    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend(sized(&rest));
    batch
}

fn record(key: &[u8], value: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    // Attributes, and how moment and offset differ from the batch's.
    let mut record = vec![0, 0, 0];
    record.extend(counted(key));
    record.extend(counted(value));
    record.extend(varint(headers.len()));
    for (name, content) in headers {
        record.extend(counted(name));
        record.extend(counted(content));
    }
    counted(&record)
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&varint(bytes.len())[..], bytes].concat()
}

/// Seven bits a byte, zigzag: what is not negative is doubled.
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

/// Castagnoli's, as Kafka's batches have it.
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
