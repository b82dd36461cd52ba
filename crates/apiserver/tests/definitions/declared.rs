//! What is refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_definitions_may_declare() {
    let server = TestServer::start().await;
    let refused = async |change: &dyn Fn(&mut Value), message: &str| {
        let mut crd = definition(
            "crontabs",
            "CronTab",
            json!([version("v1", true, &with_spec(json!({"a": {"type": "string"}})))]),
        );
        change(&mut crd["spec"]);
        let (code, answer) = send(&server, "POST", DEFINITIONS, &crd).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        let found = answer["message"].as_str().unwrap();
        assert!(found.contains(message), "{found}");
    };
    refused(
        &|s| s["conversion"] = json!({"strategy": "Webhook"}),
        "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
    )
    .await;
    refused(&|s| s["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v9"]}}),
        "must include at least one of v1, v1beta1").await;
    refused(
        &|s| s["conversion"] = json!({"strategy": "Other"}),
        "spec.conversion.strategy: Unsupported value: \"Other\"",
    )
    .await;
    refused(
        &|s| s["versions"][0]["deprecationWarning"] = json!("x"),
        "can only be set for deprecated versions",
    )
    .await;
    refused(&|s| s["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.a", "statusReplicasPath": ".status.b"}}),
        "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.a\": should be a json path under .spec").await;
    refused(&|s| s["versions"][0]["additionalPrinterColumns"] = json!([{"name": "x", "type": "text", "jsonPath": ".a"}]),
        "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string").await;
    refused(
        &|s| s["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.none"}]),
        "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.none\"",
    )
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_occur_twice() {
    let server = TestServer::start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    define(
        &server,
        &definition("crontabs", "CronTab", json!([version("v1", true, &schema)])),
    )
    .await;
    let text = "\napiVersion: stable.example.com/v1\nkind: CronTab\nmetadata:\n  name: t\nspec:\n  unknown: u\n  foo: a\n  foo: b\n";
    let twice = "line 9: key \"foo\" already set in map";
    let warned = |headers: &http::HeaderMap| {
        let warnings = headers.get_all("warning").iter();
        let texts: Vec<String> = warnings.map(|w| w.to_str().unwrap().replace('\\', "")).collect();
        texts.iter().any(|w| w.contains(twice))
    };
    let apply = [("content-type", "application/apply-patch+yaml")];
    for (validation, code, warns) in [
        ("Strict", StatusCode::BAD_REQUEST, false),
        ("Warn", StatusCode::CREATED, true),
        ("Ignore", StatusCode::OK, false),
    ] {
        let path = format!("{TABS}/t?fieldManager=m&fieldValidation={validation}");
        let (got, headers, answer) = server.send("PATCH", &path, &apply, text.to_owned()).await;
        assert_eq!((got, warned(&headers)), (code, warns), "{validation}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        if got == StatusCode::BAD_REQUEST {
            let expected = format!(
                "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {twice}"
            );
            assert_eq!(answer["message"], expected.as_str());
        } else {
            assert_eq!(answer["spec"]["foo"], "b");
        }
    }
    let create = [("content-type", "application/yaml")];
    let text = text.replace("name: t", "name: u");
    for (validation, code, warns) in [
        ("Strict", StatusCode::BAD_REQUEST, false),
        ("Warn", StatusCode::CREATED, true),
    ] {
        let path = format!("{TABS}?fieldValidation={validation}");
        let (got, headers, answer) = server.send("POST", &path, &create, text.clone()).await;
        assert_eq!((got, warned(&headers)), (code, warns), "{validation}: {answer}");
        if got == StatusCode::BAD_REQUEST {
            assert!(
                answer.contains("strict decoding error: yaml: unmarshal errors:"),
                "{answer}"
            );
        }
    }
    server.stop().await;
}
