//! The simulator by itself: `cargo run --example simulator -- '{"port": 8443}'`.

fn main() -> Result<(), String> {
    let config = std::env::args().nth(1).unwrap_or_else(|| "{}".into());
    sendora_simulator::run(&config)
}
