//! Policy from the control plane: what lies under our own layers, and how the services that we call ask to be called.
//!
//! A part of which a document is wrong is refused whole, told of, and the last good one stays.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use weft_api::weft;
use weft_policy::layer::{EffectiveCalls, Layer, LayerKind, Value};
use weft_policy::problem::Problem;
use weft_policy::route::ServiceRef;
use weft_policy::scope::Scope;
use weft_policy::{Calls, Policy};

/// What the control plane says now; parts that are empty say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// Under our own layers; `None` while nobody has said.
    pub(crate) inbound: Option<Vec<weft::Layer>>,
    /// By service: its name and namespace.
    pub(crate) services: BTreeMap<(String, String), Vec<weft::Layer>>,
}

/// The good readings.
#[derive(Default)]
pub(super) struct Mesh {
    told: Told,
    /// `None` while nobody has said.
    pub(super) under: Option<Vec<Layer>>,
    services: BTreeMap<(String, String), Service>,
}

/// How one service asks to be called.
#[derive(Default)]
struct Service {
    /// With the port that they are about; 0 is all.
    layers: Vec<(u16, Layer)>,
}

impl Mesh {
    /// Takes in what is told now; returns what is wrong with it, or `None` if it is nothing new.
    pub(super) fn take(&mut self, told: Told, scope: &Scope) -> Option<Vec<String>> {
        if told == self.told {
            return None;
        }
        let mut problems = Vec::new();
        if told.inbound != self.told.inbound {
            let read = told.inbound.as_ref().map(|inbound| read(inbound, scope));
            match read.transpose() {
                Ok(layers) => {
                    let bare =
                        |layers: Vec<(u16, Layer)>| layers.into_iter().map(|(_, layer)| layer);
                    self.under = layers.map(|layers| bare(layers).collect());
                }
                Err(wrong) => problems.extend(wrong.iter().map(ToString::to_string)),
            }
        }
        self.services
            .retain(|name, _| told.services.contains_key(name));
        for (name, layers) in &told.services {
            if self.told.services.get(name) == Some(layers) {
                continue;
            }
            let scope = Scope {
                namespace: name.1.clone(),
                ..scope.clone()
            };
            match read(layers, &scope) {
                Ok(layers) => {
                    self.services.insert(name.clone(), Service { layers });
                }
                Err(wrong) => problems.extend(
                    wrong
                        .iter()
                        .map(|one| format!("{}.{}: {one}", name.0, name.1)),
                ),
            }
        }
        self.told = told;
        Some(problems)
    }

    /// How services are called: as `policy` says under `to`, over what the services ask for; and what they ask for, with who said it.
    pub(super) fn calls(
        &self,
        policy: &Policy,
        own: &[Layer],
        scope: &Scope,
    ) -> (BTreeMap<ServiceRef, Calls>, Vec<Value>) {
        let (mut calls, mut values) = (policy.to.clone(), Vec::new());
        for ((name, namespace), service) in &self.services {
            for port in service.ports() {
                let reference = ServiceRef {
                    name: name.clone(),
                    namespace: Some(namespace.clone()),
                    port: NonZeroU16::new(port),
                };
                let layers = service
                    .layers
                    .iter()
                    .filter(|(of, _)| *of == 0 || *of == port);
                let layers: Vec<Layer> = layers.map(|(_, layer)| layer.clone()).collect();
                match EffectiveCalls::merge(&reference, &layers, own, scope) {
                    Ok(effective) => {
                        calls.insert(reference, effective.calls);
                        // What we say ourselves is told of under `to` already.
                        let asked = effective.values.into_iter();
                        let asked = asked.filter(|value| value.layer != LayerKind::Caller);
                        values.extend(asked.map(|value| Value {
                            path: format!("{name}.{namespace}{}: {}", shown(port), value.path),
                            ..value
                        }));
                    }
                    Err(problems) => {
                        tracing::warn!(
                            name,
                            namespace,
                            ?problems,
                            "a service's policy is not used"
                        );
                    }
                }
            }
        }
        (calls, values)
    }
}

/// `:8080`, or nothing for all ports.
fn shown(port: u16) -> String {
    match port {
        0 => String::new(),
        port => format!(":{port}"),
    }
}

impl Service {
    /// All ports, and those of which something of their own is said.
    fn ports(&self) -> BTreeSet<u16> {
        let named = self.layers.iter().map(|(port, _)| *port);
        named.chain([0]).collect()
    }
}

fn read(told: &[weft::Layer], scope: &Scope) -> Result<Vec<(u16, Layer)>, Vec<Problem>> {
    let layers = told.iter().filter_map(|one| {
        // A kind that we do not know is of a newer control plane.
        let kind = LayerKind::parse(&one.kind)?;
        let port = u16::try_from(one.port).unwrap_or_default();
        let layer = Layer::from_document(kind, one.object.as_str(), &one.document, scope);
        Some(layer.map(|layer| (port, layer)))
    });
    layers.collect()
}
