//! Tests of [`super`].

use super::*;

pub(in super::super) fn cache() -> KindCache {
    let mut specs = crate::registry::builtin_specs().into_iter();
    let pods = specs.find(|spec| spec.prefix == "/registry/pods/").unwrap();
    KindCache::new(Arc::new(pods), Arc::new(AtomicU64::new(0)))
}

pub(in super::super) fn put(c: &KindCache, ns: &str, name: &str, revision: u64) {
    put_on(c, ns, name, "", revision);
}

pub(in super::super) fn put_on(c: &KindCache, ns: &str, name: &str, node: &str, revision: u64) {
    let key = c.spec.key(ns, name);
    let value = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{ns}"}},"spec":{{"nodeName":"{node}"}}}}"#
    );
    let object = CachedObject::new(&c.spec, &key, value.into(), revision).unwrap();
    c.apply(vec![Change::Put(Arc::new(object))]);
}

pub(in super::super) fn delete(c: &KindCache, ns: &str, name: &str, revision: u64) {
    c.apply(vec![Change::Delete(format!("{ns}/{name}").into(), revision)]);
}

fn check(c: &KindCache, request: &PageRequest<'_>, expected: &str) {
    let page = c.page(request, |_| true).unwrap();
    let names: Vec<_> = page
        .objects
        .iter()
        .map(|o| format!("{}/{}@{}", o.namespace(), o.name(), o.revision()))
        .collect();
    assert_eq!(
        format!("{} more={} {:?}", names.join(" "), page.more, page.remaining),
        expected
    );
}

#[test]
fn pages_and_history() {
    let c = cache();
    put(&c, "a", "x", 1);
    put(&c, "a", "y", 2);
    put(&c, "b", "x", 3);
    put(&c, "a", "x", 4);
    delete(&c, "a", "y", 5);
    check(&c, &PageRequest::default(), "a/x@4 b/x@3 more=false None");
    let exact = |exact| PageRequest {
        exact: Some(exact),
        ..PageRequest::default()
    };
    check(&c, &exact(3), "a/x@1 a/y@2 b/x@3 more=false None");
    check(&c, &exact(1), "a/x@1 more=false None");
    check(
        &c,
        &PageRequest {
            namespace: Some("a"),
            ..Default::default()
        },
        "a/x@4 more=false None",
    );
    let first = PageRequest {
        limit: 1,
        exact: Some(4),
        count_remaining: true,
        ..PageRequest::default()
    };
    check(&c, &first, "a/x@4 more=true Some(2)");
    check(
        &c,
        &PageRequest {
            limit: 1,
            count_remaining: true,
            ..Default::default()
        },
        "a/x@4 more=true Some(1)",
    );
    let second = PageRequest {
        start: Some(b"a/x\0"),
        exact: Some(4),
        ..PageRequest::default()
    };
    check(&c, &second, "a/y@2 b/x@3 more=false None");
    let named = PageRequest {
        namespace: Some("b"),
        name: Some("x"),
        ..PageRequest::default()
    };
    check(&c, &named, "b/x@3 more=false None");
    let beyond = PageRequest {
        namespace: Some("a"),
        start: Some(b"z/z"),
        ..PageRequest::default()
    };
    check(&c, &beyond, " more=false None");
}

#[test]
fn ring_positions() {
    let c = cache();
    for revision in 1..=10_000 {
        put(&c, "a", "x", revision);
    }
    let error = c.follow(&Interest::All, 5).err().unwrap();
    assert!(
        error.to_string().starts_with("too old resource version: 5 ("),
        "{error}"
    );
    let Followed { backlog, next, .. } = c.follow(&Interest::All, 9_990).unwrap();
    assert_eq!(backlog.len(), 10);
    assert_eq!(backlog[0].revision(), 9_991);
    assert_eq!(c.events_of(&Interest::All, next, 100).unwrap().0.len(), 0);
    assert!(c.events_of(&Interest::All, 0, 1).is_err());
    assert!(
        c.page(
            &PageRequest {
                exact: Some(7),
                ..Default::default()
            },
            |_| true
        )
        .is_err()
    );
}
