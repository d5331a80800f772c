//! What a cluster consists of: its `twofold.toml`, written once for all of its life.

use std::fmt::Write;

use clap::Args;
use twofold_mgmnode::config;
use twofold_proto::config::{ClusterConfig, GRPC_PORT, MANAGEMENT_PORT};

use crate::client::Failure;

/// Ids of the first node of each kind.
const MANAGEMENT_ID: u16 = 1;
const DATA_ID: u16 = 11;
const API_ID: u16 = 21;
/// The usual ports of the first node of each kind; those of the next ones follow. Management nodes have two each.
const WEB_PORT: u16 = 1188;
const MANAGEMENT_STEP: u16 = 4;
const DATA_PORT: u16 = 2202;
const MEMCACHED_PORT: u16 = 11211;
const SQL_PORT: u16 = 3306;
const METRICS_PORT: u16 = 9464;

/// So that the largest port stays one.
const OFFSET_MAX: u16 = u16::MAX - GRPC_PORT - API_NODES_MAX;
const API_NODES_MAX: u16 = 16;
/// As many as there may be.
const MANAGEMENT_NODES_MAX: u16 = 5;
/// Below the ids of API nodes.
const DATA_NODES_MAX: u16 = API_ID - DATA_ID;

/// How many nodes of each kind; they are kept with the directory.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Data nodes: a multiple of the replicas [default: 2]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(DATA_NODES_MAX)))]
    pub data_nodes: Option<u16>,
    /// Copies of each row, 1 to 4 [default: 2]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=4))]
    pub replicas: Option<u8>,
    /// Management nodes: 1, 3 or 5 [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(MANAGEMENT_NODES_MAX)))]
    pub mgm_nodes: Option<u16>,
    /// API nodes [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(API_NODES_MAX)))]
    pub api_nodes: Option<u16>,
    /// Added to every port, so that several clusters fit on one machine [default: 0]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(..=i64::from(OFFSET_MAX)))]
    pub offset: Option<u16>,
}

impl Shape {
    /// A `twofold.toml` for this, all on this machine. Counts that make no cluster make a config that is refused.
    pub fn config(&self) -> String {
        let offset = self.offset.unwrap_or(0);
        let mut text = format!(
            "# Written by `cluster start`; yours to change while the cluster is stopped. `twofold config explain` tells\n\
             # all settings.\n\
             [cluster]\nname = \"local\"\nreplicas = {}\n",
            self.replicas.unwrap_or(2),
        );
        let mut put = |part: String| text.write_str(&part).expect("a text takes all");
        for place in 0..self.mgm_nodes.unwrap_or(1) {
            let step = place * MANAGEMENT_STEP + offset;
            put(format!(
                "\n[[mgm]]\nid = {}\nport = {}\nweb_port = {}\n",
                MANAGEMENT_ID + place,
                MANAGEMENT_PORT + step,
                WEB_PORT + step,
            ));
        }
        for place in 0..self.data_nodes.unwrap_or(2) {
            put(format!(
                "\n[[data]]\nid = {}\nhost = \"127.0.0.1\"\nport = {}\n",
                DATA_ID + place,
                DATA_PORT + offset + place,
            ));
        }
        for place in 0..self.api_nodes.unwrap_or(1) {
            let step = offset + place;
            put(format!(
                "\n[[api]]\nid = {}\ngrpc_port = {}\nmemcached_port = {}\nsql_port = {}\nmetrics_port = {}\n",
                API_ID + place,
                GRPC_PORT + step,
                MEMCACHED_PORT + step,
                SQL_PORT + step,
                METRICS_PORT + step,
            ));
        }
        text
    }

    /// The same as a config.
    ///
    /// # Errors
    /// If it makes no cluster, in terms of the options.
    pub fn read(&self) -> Result<ClusterConfig, Failure> {
        config::read("", &self.config()).map_err(|error| {
            let faults: Vec<String> = error.problems.into_iter().map(|problem| problem.text).collect();
            Failure(format!("{}; see --data-nodes, --replicas and --mgm-nodes", faults.join("; ")))
        })
    }

    /// Where it was asked for something else than what there is.
    pub fn contradictions(&self, config: &ClusterConfig) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |option: &str, asked: Option<u16>, there: usize| {
            if let Some(asked) = asked.filter(|&asked| usize::from(asked) != there) {
                found.push(format!("--{option} {asked}, but it has {there}"));
            }
        };
        compare("data-nodes", self.data_nodes, config.data_nodes.len());
        compare("replicas", self.replicas.map(u16::from), usize::from(config.replicas));
        compare("mgm-nodes", self.mgm_nodes, config.management_nodes.len());
        compare("api-nodes", self.api_nodes, config.api_nodes.len());
        let offset = config.api_nodes.first().map_or(0, |node| node.grpc_port.saturating_sub(GRPC_PORT));
        compare("offset", self.offset, usize::from(offset));
        found
    }
}

#[cfg(test)]
mod tests {
    use twofold_mgmnode::status;

    use super::*;

    const USUAL: Shape =
        Shape { data_nodes: None, replicas: None, mgm_nodes: None, api_nodes: None, offset: None };

    fn read(shape: &Shape) -> Result<ClusterConfig, String> {
        shape.read().map_err(|Failure(text)| text)
    }

    #[test]
    fn the_usual_cluster_has_the_usual_ports() {
        let config = read(&USUAL).unwrap();
        assert_eq!(config.replicas, 2);
        let names: Vec<String> = status::nodes(&config).map(|(id, _, name)| format!("{name}={id}")).collect();
        assert_eq!(names, ["mgm1=1", "data1=11", "data2=12", "api1=21"]);
        let management = &config.management_nodes[0];
        assert_eq!((management.address.port, management.web_port), (1186, 1188));
        assert_eq!(config.data_nodes.iter().map(|node| node.address.port).collect::<Vec<_>>(), [2202, 2203]);
        let api = &config.api_nodes[0];
        assert_eq!(
            (api.grpc_port, api.memcached_port, api.sql_port, api.metrics_port),
            (50051, 11211, 3306, 9464)
        );
    }

    #[test]
    fn the_largest_cluster_has_no_port_twice_and_no_id_twice() {
        for offset in [0, OFFSET_MAX] {
            let shape = Shape {
                data_nodes: Some(DATA_NODES_MAX),
                replicas: Some(1),
                mgm_nodes: Some(MANAGEMENT_NODES_MAX),
                api_nodes: Some(API_NODES_MAX),
                offset: Some(offset),
            };
            let config = read(&shape).unwrap();
            assert_eq!(config.api_nodes[0].grpc_port, GRPC_PORT + offset);
            assert_eq!(shape.contradictions(&config), [] as [&str; 0]);
        }
    }

    #[test]
    fn counts_that_make_no_cluster_are_refused_in_words() {
        let refused = read(&Shape { data_nodes: Some(3), ..USUAL }).unwrap_err();
        assert!(refused.starts_with("3 data nodes cannot keep 2 replicas"), "{refused}");
        assert!(
            refused.ends_with(
                "have 2 or 4 data nodes, or other replicas; see --data-nodes, --replicas and --mgm-nodes"
            ),
            "{refused}"
        );
        let refused = read(&Shape { mgm_nodes: Some(2), ..USUAL }).unwrap_err();
        assert!(refused.contains("2 management nodes"), "{refused}");
        let refused = read(&Shape { mgm_nodes: Some(4), ..USUAL }).unwrap_err();
        assert!(refused.contains("4 management nodes"), "{refused}");
    }

    #[test]
    fn another_shape_than_the_one_there_is_a_contradiction() {
        let config = read(&Shape { offset: Some(100), ..USUAL }).unwrap();
        assert_eq!(USUAL.contradictions(&config), [] as [&str; 0]);
        let other = Shape { data_nodes: Some(4), offset: Some(0), ..USUAL };
        assert_eq!(
            other.contradictions(&config),
            ["--data-nodes 4, but it has 2", "--offset 0, but it has 100"]
        );
    }
}
