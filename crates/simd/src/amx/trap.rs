//! Runs tile instructions on CPUs that have none: each traps as illegal, is decoded from the bytes of the program and
//! carried out by the model. So the assembly itself is tested, register numbers, addresses and all, wherever x86-64
//! Linux runs; where the CPU has AMX and the process may use it nothing traps, and the CPU is compared with the model.

use super::Config;
use super::model::registers;
use std::sync::Once;

/// A tile instruction, with its addresses computed.
#[derive(Debug, PartialEq, Eq)]
enum Instruction {
    Configure { from: usize },
    Release,
    Zero { tile: usize },
    Load { tile: usize, from: usize, stride: usize },
    Store { tile: usize, to: usize, stride: usize },
    MultiplyBf16 { c: usize, a: usize, b: usize },
    MultiplyI8U8 { c: usize, a: usize, b: usize },
}

/// Decodes the instruction that `code` begins with (Intel's Software Developer's Manual, volume 2, 2.3 VEX prefix and
/// 2.1.5 ModR/M and SIB), and its length. `register` reads a general register by its number.
fn decode(code: &[u8], register: impl Fn(usize) -> usize) -> Option<(Instruction, usize)> {
    // VEX in three bytes: C4, then R X B (inverted) and the map 0F 38, then W, vvvv (inverted), L and the prefix.
    let (&[0xc4, first, second, opcode, modrm], mut rest) = code.split_first_chunk::<5>()? else { return None };
    let (high_r, high_x, high_b) = (first & 0x80 == 0, first & 0x40 == 0, first & 0x20 == 0);
    let (wide, long, prefix) = (second & 0x80 != 0, second & 0x04 != 0, second & 0x03);
    let vvvv = usize::from(!second >> 3 & 0x0f);
    if first & 0x1f != 2 || wide || long {
        return None;
    }
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    if mode == 3 {
        // Registers only; there are eight tiles.
        let instruction = match (opcode, prefix) {
            (0x49, 0) if modrm == 0xc0 && vvvv == 0 => Instruction::Release,
            (0x49, 3) if rm == 0 && vvvv == 0 => Instruction::Zero { tile: reg },
            (0x5c, 2) if vvvv < 8 => Instruction::MultiplyBf16 { c: reg, a: rm, b: vvvv },
            (0x5e, 2) if vvvv < 8 => Instruction::MultiplyI8U8 { c: reg, a: rm, b: vvvv },
            _ => return None,
        };
        return (!high_r && !high_b).then_some((instruction, 5));
    }
    let mut length = 5;
    let (base, index, scale) = if rm == 4 {
        let (&sib, behind) = rest.split_first()?;
        rest = behind;
        length += 1;
        (usize::from(sib & 7), usize::from(sib >> 3 & 7) + 8 * usize::from(high_x), usize::from(sib >> 6))
    } else {
        (rm, 4, 0)
    };
    let displacement = match mode {
        // No base, or relative to the instruction: not what the assembly here asks for.
        0 if base == 5 => return None,
        0 => 0,
        1 => {
            length += 1;
            isize::from(*rest.first()? as i8)
        }
        _ => {
            length += 4;
            i32::from_le_bytes(*rest.first_chunk()?) as isize
        }
    };
    let address = register(base + 8 * usize::from(high_b)).wrapping_add_signed(displacement);
    // An index of 4 stands for none.
    let stride = if index == 4 { 0 } else { register(index) << scale };
    let instruction = match (opcode, prefix) {
        (0x49, 0) if reg == 0 && !high_r && index == 4 => Instruction::Configure { from: address },
        (0x4b, 3) if rm == 4 && !high_r => Instruction::Load { tile: reg, from: address, stride },
        (0x4b, 2) if rm == 4 && !high_r => Instruction::Store { tile: reg, to: address, stride },
        _ => return None,
    };
    (vvvv == 0).then_some((instruction, length))
}

/// Carries out the tile instruction that trapped and continues behind it; any other one ends the process.
extern "C" fn trapped(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // In the order of their numbers in ModR/M and SIB.
    const ORDER: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    // SAFETY: the system passes the context of the interrupted thread, whose instruction lies at RIP; no instruction
    // is longer than 15 bytes, and behind this one lies at least the rest of its function. Addresses are what the
    // instruction would have read and written.
    unsafe {
        let registers_then = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = std::slice::from_raw_parts(registers_then[libc::REG_RIP as usize] as *const u8, 10);
        let Some((instruction, length)) = decode(code, |number| registers_then[ORDER[number] as usize] as usize) else {
            libc::signal(signal, libc::SIG_DFL);
            return;
        };
        registers(|r| match instruction {
            Instruction::Configure { from } => r.configure(&*(from as *const Config)),
            Instruction::Release => r.release(),
            Instruction::Zero { tile } => r.zero(tile),
            Instruction::Load { tile, from, stride } => r.load(tile, from as *const u8, stride),
            Instruction::Store { tile, to, stride } => r.store(tile, to as *mut u8, stride),
            Instruction::MultiplyBf16 { c, a, b } => r.multiply_bf16(c, a, b),
            Instruction::MultiplyI8U8 { c, a, b } => r.multiply_i8_u8(c, a, b),
        });
        registers_then[libc::REG_RIP as usize] += length as libc::greg_t;
    }
}

/// From now on tile instructions work in this process: by the CPU if it has AMX and the system permits it, else by the
/// model. (Without permission they trap too.)
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if super::amx().is_ok() {
            return;
        }
        // SAFETY: a handler of this signature, without a mask.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = trapped as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
        }
    });
}

/// The encodings, as printed by Intel's manual and assembled by hand.
#[test]
fn instructions_are_decoded() {
    let register = |number: usize| 0x1000 * (number + 1);
    let cases: [(&[u8], Instruction); 12] = [
        (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Instruction::Release),
        (&[0xc4, 0xe2, 0x78, 0x49, 0x07], Instruction::Configure { from: 0x8000 }),
        (&[0xc4, 0xc2, 0x78, 0x49, 0x06], Instruction::Configure { from: 0xf000 }),
        (&[0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0x40], Instruction::Configure { from: 0x5040 }),
        (&[0xc4, 0xe2, 0x7b, 0x49, 0xf8], Instruction::Zero { tile: 7 }),
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x37], Instruction::Load { tile: 4, from: 0x8000, stride: 0x7000 }),
        (&[0xc4, 0x82, 0x7b, 0x4b, 0x14, 0x01], Instruction::Load { tile: 2, from: 0xa000, stride: 0x9000 }),
        (&[0xc4, 0xa2, 0x7b, 0x4b, 0x5c, 0x25, 0xf0], Instruction::Load { tile: 3, from: 0x5ff0, stride: 0xd000 }),
        (&[0xc4, 0xe2, 0x7a, 0x4b, 0x0c, 0x08], Instruction::Store { tile: 1, to: 0x1000, stride: 0x2000 }),
        (&[0xc4, 0xe2, 0x42, 0x5c, 0xce], Instruction::MultiplyBf16 { c: 1, a: 6, b: 7 }),
        (&[0xc4, 0xe2, 0x4a, 0x5e, 0xdd], Instruction::MultiplyI8U8 { c: 3, a: 5, b: 6 }),
        (&[0xc4, 0xe2, 0x7a, 0x4b, 0x84, 0x88, 0, 1, 0, 0], Instruction::Store { tile: 0, to: 0x1100, stride: 0x8000 }),
    ];
    for (code, instruction) in cases {
        let padded: Vec<u8> = code.iter().copied().chain([0xcc; 8]).collect();
        assert_eq!(decode(&padded, register), Some((instruction, code.len())), "{code:02x?}");
    }
    // TDPBSSD, a vector instruction, and one without VEX.
    for code in [[0xc4, 0xe2, 0x43, 0x5e, 0xce], [0xc4, 0xe2, 0x7d, 0x58, 0x07], [0x0f, 0x0b, 0, 0, 0]] {
        assert_eq!(decode(&[&code[..], &[0xcc; 8]].concat(), register), None, "{code:02x?}");
    }
}
