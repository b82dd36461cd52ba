//! Turns the table of CRI v1 messages and services in `schema.tsv` into Rust types and gRPC traits.

use std::collections::HashSet;
use std::error::Error;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto,
};

const PACKAGE: &str = "runtime.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=schema.tsv");
    let table = std::fs::read_to_string("schema.tsv")?;
    let file = parse(&table)?;
    tonic_prost_build::configure()
        .build_transport(true)
        .compile_fds(FileDescriptorSet { file: vec![file] })?;
    Ok(())
}

/// One `message`, `enum` or `service` with its rows, each split at tabs.
struct Section<'a> {
    kind: &'a str,
    name: &'a str,
    rows: Vec<Vec<&'a str>>,
}

fn sections(table: &str) -> Result<Vec<Section<'_>>, Box<dyn Error>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in table.lines() {
        if let Some(row) = line.strip_prefix('\t') {
            sections
                .last_mut()
                .ok_or("row before any section")?
                .rows
                .push(row.split('\t').collect());
        } else {
            let (kind, name) = line
                .split_once('\t')
                .ok_or_else(|| format!("bad section line: {line}"))?;
            sections.push(Section {
                kind,
                name,
                rows: Vec::new(),
            });
        }
    }
    Ok(sections)
}

fn parse(table: &str) -> Result<FileDescriptorProto, Box<dyn Error>> {
    let sections = sections(table)?;
    let enums: HashSet<&str> = sections
        .iter()
        .filter(|s| s.kind == "enum")
        .map(|s| s.name)
        .collect();
    let mut file = FileDescriptorProto {
        name: Some("cri.proto".into()),
        package: Some(PACKAGE.into()),
        syntax: Some("proto3".into()),
        ..Default::default()
    };
    for section in &sections {
        match section.kind {
            "message" => {
                let message = message(section, &enums)?;
                match parent(&mut file, section.name) {
                    Some(parent) => parent.nested_type.push(message),
                    None => file.message_type.push(message),
                }
            }
            "enum" => {
                let descriptor = enumeration(section)?;
                match parent(&mut file, section.name) {
                    Some(parent) => parent.enum_type.push(descriptor),
                    None => file.enum_type.push(descriptor),
                }
            }
            "service" => file.service.push(service(section)),
            other => return Err(format!("unknown section {other}").into()),
        }
    }
    Ok(file)
}

/// The message that contains `A.B`, i.e. `A`; `None` for a top-level name.
fn parent<'a>(file: &'a mut FileDescriptorProto, name: &str) -> Option<&'a mut DescriptorProto> {
    let (outer, _) = name.split_once('.')?;
    file.message_type.iter_mut().find(|m| m.name() == outer)
}

fn base(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

fn set_type(field: &mut FieldDescriptorProto, name: &str, enums: &HashSet<&str>) {
    let scalar = match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "string" => Type::String,
        "uint32" => Type::Uint32,
        "uint64" => Type::Uint64,
        other => {
            field.type_name = Some(format!(".{PACKAGE}.{other}"));
            if enums.contains(other) {
                Type::Enum
            } else {
                Type::Message
            }
        }
    };
    field.set_type(scalar);
}

fn field(
    name: &str,
    number: i32,
    label: Label,
    type_name: &str,
    enums: &HashSet<&str>,
) -> FieldDescriptorProto {
    let mut field = FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        ..Default::default()
    };
    field.set_label(label);
    set_type(&mut field, type_name, enums);
    field
}

fn message(section: &Section<'_>, enums: &HashSet<&str>) -> Result<DescriptorProto, Box<dyn Error>> {
    let mut message = DescriptorProto {
        name: Some(base(section.name)),
        ..Default::default()
    };
    for row in &section.rows {
        let [name, number, type_name, ..] = row[..] else {
            return Err(format!("bad field in {}: {row:?}", section.name).into());
        };
        let number = number.parse()?;
        if let Some(entry) = type_name.strip_prefix("map ") {
            let (key, value) = entry.split_once(' ').ok_or("bad map type")?;
            let entry_name = format!("{}Entry", camel(name));
            message.nested_type.push(DescriptorProto {
                name: Some(entry_name.clone()),
                field: vec![
                    field("key", 1, Label::Optional, key, enums),
                    field("value", 2, Label::Optional, value, enums),
                ],
                options: Some(MessageOptions {
                    map_entry: Some(true),
                    ..Default::default()
                }),
                ..Default::default()
            });
            let path = format!("{}.{entry_name}", section.name);
            message
                .field
                .push(field(name, number, Label::Repeated, &path, enums));
            continue;
        }
        let (label, type_name) = match type_name.strip_prefix("repeated ") {
            Some(element) => (Label::Repeated, element),
            None => (Label::Optional, type_name),
        };
        let mut descriptor = field(name, number, label, type_name, enums);
        if let Some(oneof) = row.get(3).and_then(|o| o.strip_prefix("oneof ")) {
            let index = message
                .oneof_decl
                .iter()
                .position(|o| o.name() == oneof)
                .unwrap_or_else(|| {
                    message.oneof_decl.push(OneofDescriptorProto {
                        name: Some(oneof.into()),
                        ..Default::default()
                    });
                    message.oneof_decl.len() - 1
                });
            descriptor.oneof_index = Some(i32::try_from(index)?);
        }
        message.field.push(descriptor);
    }
    Ok(message)
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map(|c| c.to_ascii_uppercase().to_string() + chars.as_str())
                .unwrap_or_default()
        })
        .collect()
}

fn enumeration(section: &Section<'_>) -> Result<EnumDescriptorProto, Box<dyn Error>> {
    let mut descriptor = EnumDescriptorProto {
        name: Some(base(section.name)),
        ..Default::default()
    };
    for row in &section.rows {
        let [name, number] = row[..] else {
            return Err(format!("bad value in {}", section.name).into());
        };
        descriptor.value.push(EnumValueDescriptorProto {
            name: Some(name.into()),
            number: Some(number.parse()?),
            ..Default::default()
        });
    }
    Ok(descriptor)
}

fn service(section: &Section<'_>) -> ServiceDescriptorProto {
    ServiceDescriptorProto {
        name: Some(section.name.into()),
        method: section
            .rows
            .iter()
            .map(|row| MethodDescriptorProto {
                name: Some(row[0].into()),
                input_type: Some(format!(".{PACKAGE}.{}", row[1])),
                output_type: Some(format!(".{PACKAGE}.{}", row[2])),
                server_streaming: Some(row.get(3) == Some(&"stream")),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}
