//! The elements of the XML that operations take. s3s passes over the others, and with them over what they
//! ask for: of a part named with `<ChecksumSHA512>` nothing would be compared. S3 holds the XML against its
//! schema.

use holdfast_engine::StoreError;
use quick_xml::{Reader, events::Event};

/// The names in the XML of one root.
struct Schema {
    root: &'static [u8],
    elements: &'static [&'static [u8]],
}

const SCHEMAS: [Schema; 3] = [
    Schema {
        root: b"CreateBucketConfiguration",
        // Of directory buckets all but the location constraint; the operation refuses them.
        elements: &[
            b"Bucket",
            b"DataRedundancy",
            b"Location",
            b"LocationConstraint",
            b"Name",
            b"Type",
        ],
    },
    Schema {
        root: b"Delete",
        elements: &[
            b"ETag",
            b"Key",
            b"LastModifiedTime",
            b"Object",
            b"Quiet",
            b"Size",
            b"VersionId",
        ],
    },
    Schema {
        root: b"CompleteMultipartUpload",
        elements: &[
            b"ChecksumCRC32",
            b"ChecksumCRC32C",
            b"ChecksumCRC64NVME",
            b"ChecksumSHA1",
            b"ChecksumSHA256",
            b"ETag",
            b"Part",
            b"PartNumber",
        ],
    },
];

/// Refuses what the operation of `xml` would pass over (INV-GATE-3). What is no XML, or of another root,
/// s3s refuses by itself.
pub(crate) fn check(xml: &[u8]) -> Result<(), StoreError> {
    let mut reader = Reader::from_reader(xml);
    let mut schema: Option<&Schema> = None;
    loop {
        let name = match reader.read_event() {
            Ok(Event::Start(element) | Event::Empty(element)) => {
                element.local_name().into_inner().to_owned()
            }
            Ok(Event::Eof) | Err(_) => return Ok(()),
            Ok(_) => continue,
        };
        match schema {
            None => schema = SCHEMAS.iter().find(|schema| schema.root == name),
            Some(schema) if !schema.elements.contains(&name.as_slice()) => {
                return Err(unknown(schema, &name));
            }
            Some(_) => {}
        }
        if schema.is_none() {
            return Ok(());
        }
    }
}

fn unknown(schema: &Schema, name: &[u8]) -> StoreError {
    let (name, root) = (String::from_utf8_lossy(name), String::from_utf8_lossy(schema.root));
    let message = format!("element {name:?} of {root} is not implemented");
    StoreError::BodyRejected { code: "NotImplemented", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what is passed over is refused. Method: a table.
    #[test]
    fn elements_that_are_passed_over() {
        let rows = [
            ("<Delete xmlns=\"x\"><Object><Key>k</Key></Object><Quiet>true</Quiet></Delete>", true),
            ("<s3:Delete><s3:Object><s3:Key>k</s3:Key></s3:Object></s3:Delete>", true),
            ("<Delete><Object><Key>k</Key><Undo/></Object></Delete>", false),
            (
                "<?xml version=\"1.0\"?>\n<CreateBucketConfiguration><Tags/></CreateBucketConfiguration>",
                false,
            ),
            ("<CompleteMultipartUpload><Part><ChecksumSHA512>a</ChecksumSHA512></Part>", false),
            (
                "<CompleteMultipartUpload><Part><ETag>a</ETag></Part></CompleteMultipartUpload>",
                true,
            ),
            ("<Tagging><TagSet/></Tagging>", true),
            ("no XML <", true),
            ("", true),
        ];
        for (xml, passes) in rows {
            assert_eq!(check(xml.as_bytes()).is_ok(), passes, "{xml}");
        }
    }
}
