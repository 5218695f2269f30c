//! What every object needs once: its licence and the panic handler that is never reached.

/// Helpers such as the clocks are open to GPL-compatible programs only, so the kernel reads this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here can panic, or the object would not verify; the compiler wants the symbol anyway.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
