//! The text of the nftables table: which connections go to the proxy and which are left alone.
//!
//! The order of the rules is Istio's, with its reasons beside each rule. There is no exemption for Istio's tunnel port 15008:
//! the proxy has no tunnel listener, so such a rule would only be a way around it.

use std::fmt::Write;

use super::RedirectConfig;

/// Removes the table, and is no error when there is none.
pub(super) const REMOVE: &str = "add table inet weft\ndelete table inet weft\n";

/// Returns the script that replaces the table in one transaction.
pub(super) fn script(config: &RedirectConfig) -> String {
    let inbound = inbound_skips(config);
    let outbound = outbound_skips(config);
    let blocks = outbound_blocks(config);
    let RedirectConfig {
        inbound_port,
        outbound_port,
        uid,
        gid,
        ..
    } = config;
    format!(
        r#"{REMOVE}table inet weft {{
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		meta l4proto tcp jump inbound
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		meta l4proto tcp jump outbound
	}}
	chain inbound {{
{inbound}		jump to_inbound
	}}
	chain outbound {{
{outbound}		# The inbound proxy's leg to its app.
		oifname "lo" ip saddr 127.0.0.6 return
		oifname "lo" ip6 saddr ::6 return
		# The app called its own service and the proxy chose its own pod: through policy, like any other caller.
		oifname "lo" ip daddr != 127.0.0.1 meta skuid {uid} jump to_inbound
		oifname "lo" ip6 daddr != ::1 meta skuid {uid} jump to_inbound
		# The pod's own processes among themselves.
		oifname "lo" meta skuid != {uid} return
		# What the proxy itself sends must not come back to it.
		meta skuid {uid} return
		# The same three for a proxy that is known by its group.
		oifname "lo" ip daddr != 127.0.0.1 meta skgid {gid} jump to_inbound
		oifname "lo" ip6 daddr != ::1 meta skgid {gid} jump to_inbound
		oifname "lo" meta skgid != {gid} return
		meta skgid {gid} return
		ip daddr 127.0.0.1 return
		ip6 daddr ::1 return
{blocks}		jump to_outbound
	}}
	chain to_inbound {{
		meta l4proto tcp counter redirect to :{inbound_port}
	}}
	chain to_outbound {{
		meta l4proto tcp counter redirect to :{outbound_port}
	}}
}}
"#
    )
}

fn inbound_skips(config: &RedirectConfig) -> String {
    lines(
        config
            .skip_inbound_ports
            .iter()
            .map(|ports| format!("tcp dport {ports} return")),
    )
}

fn outbound_skips(config: &RedirectConfig) -> String {
    lines(
        config
            .skip_outbound_ports
            .iter()
            .map(|ports| format!("tcp dport {ports} return")),
    )
}

fn outbound_blocks(config: &RedirectConfig) -> String {
    lines(
        config
            .skip_outbound_cidrs
            .iter()
            .map(|block| format!("{} daddr {block} return", block.family())),
    )
}

fn lines(rules: impl Iterator<Item = String>) -> String {
    rules.fold(String::new(), |mut text, rule| {
        let _ = writeln!(text, "\t\t{rule}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::script;
    use crate::redirect::RedirectConfig;

    #[test]
    fn default_table_is_this_text() {
        assert_eq!(
            script(&RedirectConfig::default()),
            include_str!("golden/default.nft")
        );
    }

    #[test]
    fn table_with_every_option_is_this_text() {
        let ports = |text: &[&str]| text.iter().map(|port| port.parse().unwrap()).collect();
        let config = RedirectConfig {
            inbound_port: 16006,
            outbound_port: 16001,
            uid: 2000,
            gid: 3000,
            skip_inbound_ports: ports(&["22", "9000-9100"]),
            skip_outbound_ports: ports(&["3306"]),
            skip_outbound_cidrs: ["10.0.0.0/8", "fd00::/8"]
                .iter()
                .map(|block| block.parse().unwrap())
                .collect(),
        };
        assert_eq!(script(&config), include_str!("golden/options.nft"));
    }
}
