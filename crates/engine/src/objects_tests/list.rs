//! LIST on drives.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{down, put, remove, with_bucket};
use crate::{Engine, StoreError, api::ListObjects};

async fn keys(engine: &Engine, list: ListObjects) -> Result<Vec<String>, StoreError> {
    let mut list = ListObjects { bucket: "b".to_owned(), ..list };
    let mut names = Vec::new();
    loop {
        let page = engine.objects_list(&list).await?;
        let listed = page.objects.iter().map(|object| &object.key).chain(&page.prefixes);
        names.extend(listed.map(|name| String::from_utf8_lossy(name).into_owned()));
        let Some(next) = page.next else { break };
        assert!(next > list.after, "pages go forward");
        list.after = next;
    }
    Ok(names)
}

/// Goal: LIST shows what is there in order, rolled up, with its metadata, one node down or not.
/// Method: keys of ceph/s3-tests, pages of every size.
#[tokio::test(start_paused = true)]
async fn lists_are_whole_in_pages_of_every_size() {
    let (engine, nodes) = with_bucket().await;
    for key in ["asdf", "boo/bar", "boo/baz/xyzzy", "cquux/thud", "cquux/bla", "gone"] {
        put(&engine, "b", key, key.as_bytes()).await.unwrap();
    }
    remove(&engine, "b", "gone").await.unwrap();
    for node_down in [false, true] {
        down(&nodes[0], node_down);
        for limit in 1..7 {
            let all = ListObjects { limit, ..ListObjects::default() };
            let expected = ["asdf", "boo/bar", "boo/baz/xyzzy", "cquux/bla", "cquux/thud"];
            assert_eq!(keys(&engine, all).await.unwrap(), expected);
            let delimiter = Bytes::from_static(b"/");
            let rolled = ListObjects { limit, delimiter: delimiter.clone(), ..Default::default() };
            assert_eq!(keys(&engine, rolled).await.unwrap(), ["asdf", "boo/", "cquux/"]);
            let prefix = Bytes::from_static(b"boo/");
            let below = ListObjects { limit, delimiter, prefix, ..Default::default() };
            assert_eq!(keys(&engine, below).await.unwrap(), ["boo/bar", "boo/baz/"]);
        }
    }
    let list = ListObjects { bucket: "b".to_owned(), limit: 1, ..ListObjects::default() };
    let page = engine.objects_list(&list).await.unwrap();
    assert_eq!(page.objects[0].meta.size, 4);
}

/// Goal: LIST reflects every acknowledged write, while others go on. Method: writers put and remove
/// keys of their own and list after each; what they acknowledged must show, what they removed not.
#[tokio::test(start_paused = true)]
async fn every_acknowledged_write_is_listed_at_once() {
    let (engine, nodes) = with_bucket().await;
    for (at, node) in nodes.iter().enumerate() {
        for drive in node.drives() {
            node.set_delay(drive, std::time::Duration::from_micros(at as u64 * 900));
        }
    }
    let writer = |id: usize| {
        let engine = engine.clone();
        async move {
            let mut mine = BTreeSet::new();
            for step in 0..12 {
                let key = format!("w{id}/{}", step % 5);
                if mine.remove(&key) {
                    remove(&engine, "b", &key).await.unwrap();
                } else {
                    put(&engine, "b", &key, b"x").await.unwrap();
                    mine.insert(key);
                }
                let prefix = Bytes::from(format!("w{id}/"));
                let list = ListObjects { limit: 3, prefix, ..ListObjects::default() };
                let shown: BTreeSet<_> = keys(&engine, list).await.unwrap().into_iter().collect();
                assert_eq!(shown, mine);
            }
        }
    };
    futures::future::join_all((0..6).map(writer)).await;
}
