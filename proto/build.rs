//! Compiles the contracts with protox: no `protoc` is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=holdfast");
    let descriptors = protox::compile(["holdfast/fabric/v1/fabric.proto"], ["."])?;
    // Byte fields are views of the received message, not copies of it.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
