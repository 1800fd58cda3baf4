//! The program `sky-vmm`.
fn main() {
    let r = sky_vmm::check::self_test();
    println!("{r}");
}
