// Direct-threaded execution of IR. Flags are the host's own (host_flags.h); memory goes through the small TLB in line.
#include "accel/tcg/host/interp.h"

#include "accel/tcg/guest/host_flags.h"
#include "accel/tcg/guest/soft_memory.h"
#include "src/base/assert.h"

#pragma clang diagnostic ignored "-Wgnu-label-as-value"

namespace vmm::tcg {

namespace {

using ir::Op;
using ir::OpCode;

template <class T>
T signed_shift_right(T a, u64 n) {
  return static_cast<T>(static_cast<std::make_signed_t<T>>(a) >> n);
}

bool condition(ir::Cond cond, u64 cc) {
  bool r = false;
  switch (static_cast<unsigned>(cond) >> 1) {
    case 0: r = cc & ir::cc_overflow; break;
    case 1: r = cc & ir::cc_carry; break;
    case 2: r = cc & ir::cc_zero; break;
    case 3: r = cc & (ir::cc_carry | ir::cc_zero); break;
    case 4: r = cc & ir::cc_sign; break;
    case 5: r = cc & ir::cc_parity; break;
    case 6: r = ((cc >> 7) ^ (cc >> 11)) & 1; break;
    default: r = (cc & ir::cc_zero) || (((cc >> 7) ^ (cc >> 11)) & 1); break;
  }
  return r != (static_cast<unsigned>(cond) & 1);
}

template <class T>
bool atomic_rmw(GuestCpu& g, u64 address, u16 aux, u64 operand, u64 expected, u64& old) {
  const auto kind = static_cast<ir::RmwKind>(aux >> 8);
  u8* const host = soft_host(g, address, sizeof(T), true);
  if (!host) return g.memory->rmw(g, address, sizeof(T), aux & 0xff, kind, operand, expected, old);
  T* const p = reinterpret_cast<T*>(host);
  const T v = static_cast<T>(operand);
  switch (kind) {
    case ir::RmwKind::add: old = __sync_fetch_and_add(p, v); break;
    case ir::RmwKind::and_: old = __sync_fetch_and_and(p, v); break;
    case ir::RmwKind::or_: old = __sync_fetch_and_or(p, v); break;
    case ir::RmwKind::xor_: old = __sync_fetch_and_xor(p, v); break;
    case ir::RmwKind::xchg: old = __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); break;
    case ir::RmwKind::cas: old = __sync_val_compare_and_swap(p, static_cast<T>(expected), v); break;
    case ir::RmwKind::neg: {
      T seen = __atomic_load_n(p, __ATOMIC_RELAXED);
      while (!__atomic_compare_exchange_n(p, &seen, static_cast<T>(0 - seen), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      }
      old = seen;
      break;
    }
  }
  return true;
}

}  // namespace

ir::ExitReason interpret(GuestCpu& g, const ir::Block& block, unsigned loops) {
  static const void* const labels[] = {
#define X(name, inputs, result, leaves) &&L_##name##_u8, &&L_##name##_u16, &&L_##name##_u32, &&L_##name##_u64,
      IR_OPS(X)
#undef X
  };
  u64 v[ir::Block::max_values];
  v[0] = 0;
  u8* const state = g.state_base;
  g.ip_page = *g.ip - block.start;
  g.leave = false;
  const Op* op = block.ops.data();
  const Op* const first_op = op;
  const ir::Instruction* only = nullptr;  // once the rest of one instruction runs from `rest`
  Op rest[64];
  u64 disp_ip;
  ir::ExitReason reason = ir::ExitReason::next;

#define GO goto* labels[static_cast<unsigned>(op->code) * 4 + static_cast<unsigned>(op->type)]
#define NEXT \
  do {       \
    op++;    \
    GO;      \
  } while (0)
// An op that does not look at its type; one that does (T).
#define ANY(name) L_##name##_u8 : L_##name##_u16 : L_##name##_u32 : L_##name##_u64:
#define EACH(name, ...) \
  L_##name##_u8 : {     \
    using T = u8;       \
    __VA_ARGS__;        \
  }                     \
  NEXT;                 \
  L_##name##_u16 : {    \
    using T = u16;      \
    __VA_ARGS__;        \
  }                     \
  NEXT;                 \
  L_##name##_u32 : {    \
    using T = u32;      \
    __VA_ARGS__;        \
  }                     \
  NEXT;                 \
  L_##name##_u64 : {    \
    using T = u64;      \
    __VA_ARGS__;        \
  }                     \
  NEXT;
#define A static_cast<T>(v[op->a])
#define B static_cast<T>(v[op->b])
#define RESULT(x) v[op->dst] = static_cast<T>(x)
#define CC v[op->dst + 1]

  GO;

  ANY(nop) NEXT;
  ANY(constant) v[op->dst] = op->imm;
  NEXT;
  EACH(get, T x; __builtin_memcpy(&x, state + op->disp, sizeof x); v[op->dst] = x)
  EACH(set, const T x = A; __builtin_memcpy(state + op->disp, &x, sizeof x))
  ANY(get_cc) v[op->dst] = *g.cc & ir::cc_mask;
  NEXT;
  ANY(set_cc)* g.cc = (*g.cc & ~ir::cc_mask) | v[op->a];
  NEXT;
  ANY(ip_page) v[op->dst] = g.ip_page;
  NEXT;

  EACH(add, RESULT(v[op->a] + v[op->b]))
  EACH(sub, RESULT(v[op->a] - v[op->b]))
  EACH(and_, RESULT(v[op->a] & v[op->b]))
  EACH(or_, RESULT(v[op->a] | v[op->b]))
  EACH(xor_, RESULT(v[op->a] ^ v[op->b]))
  EACH(andn, RESULT(~v[op->a] & v[op->b]))
  EACH(mul, RESULT(v[op->a] * v[op->b]))
  EACH(shl, RESULT(v[op->a] << (v[op->b] & (sizeof(T) * 8 - 1))))
  EACH(shr, RESULT(A >> (v[op->b] & (sizeof(T) * 8 - 1))))
  EACH(sar, RESULT(signed_shift_right<T>(A, v[op->b] & (sizeof(T) * 8 - 1))))
  EACH(rotl, RESULT(std::rotl(A, static_cast<int>(v[op->b] & (sizeof(T) * 8 - 1)))))
  EACH(rotr, RESULT(std::rotr(A, static_cast<int>(v[op->b] & (sizeof(T) * 8 - 1)))))
  EACH(neg, RESULT(0 - v[op->a]))
  EACH(not_, RESULT(~v[op->a]))
  EACH(bswap, RESULT(std::byteswap(A)))
  EACH(add_imm, RESULT(v[op->a] + static_cast<u64>(i64{op->disp})))
  EACH(and_imm, RESULT(v[op->a] & static_cast<u32>(op->disp)))
  EACH(shl_imm, RESULT(v[op->a] << op->disp))
  EACH(shr_imm, RESULT(A >> op->disp))
  EACH(trunc, RESULT(v[op->a]))
  EACH(sext, v[op->dst] = static_cast<u64>(i64{static_cast<std::make_signed_t<T>>(A)}))
  EACH(
      deposit, if constexpr (sizeof(T) == 8) v[op->dst] = v[op->b]; else {
        const u64 mask = u64{std::numeric_limits<T>::max()} << op->disp;
        v[op->dst] = (v[op->a] & ~mask) | (v[op->b] << op->disp & mask);
      })
  EACH(lea, RESULT(v[op->a] + (v[op->b] << op->aux) + static_cast<u64>(i64{op->disp})))
  ANY(select) v[op->dst] = v[op->a] ? v[op->b] : v[op->c];
  NEXT;
  ANY(equal) v[op->dst] = v[op->a] == v[op->b];
  NEXT;
  ANY(less) v[op->dst] = v[op->a] < v[op->b];
  NEXT;
  ANY(test_cc) v[op->dst] = condition(static_cast<ir::Cond>(op->aux), v[op->a]);
  NEXT;

  EACH(add_cc, RESULT(host_add<T>(A, B, CC)))
  EACH(sub_cc, RESULT(host_sub<T>(A, B, CC)))
  EACH(adc_cc, RESULT(host_adc<T>(A, B, v[op->c], CC)))
  EACH(sbb_cc, RESULT(host_sbb<T>(A, B, v[op->c], CC)))
  EACH(and_cc, RESULT(host_and<T>(A, B, CC)))
  EACH(or_cc, RESULT(host_or<T>(A, B, CC)))
  EACH(xor_cc, RESULT(host_xor<T>(A, B, CC)))
  EACH(inc_cc, RESULT(host_inc<T>(A, v[op->b], CC)))
  EACH(dec_cc, RESULT(host_dec<T>(A, v[op->b], CC)))
  EACH(neg_cc, RESULT(host_neg<T>(A, 0, CC)))
  EACH(shl_cc, RESULT(host_shl<T>(A, v[op->b], v[op->c], CC)))
  EACH(shr_cc, RESULT(host_shr<T>(A, v[op->b], v[op->c], CC)))
  EACH(sar_cc, RESULT(host_sar<T>(A, v[op->b], v[op->c], CC)))
  EACH(rol_cc, RESULT(host_rol<T>(A, v[op->b], v[op->c], CC)))
  EACH(ror_cc, RESULT(host_ror<T>(A, v[op->b], v[op->c], CC)))
  EACH(mul_cc, if constexpr (sizeof(T) > 1) RESULT(host_imul<T>(A, B, v[op->c], CC)))

  EACH(
      load, const u64 at = v[op->a] + static_cast<u64>(i64{op->disp}); const SoftLine& line = g.tlb->line[SoftTlb::index(at)];
      if (((at + sizeof(T) - 1) & ~u64{0xfff}) == (op->aux & ir::Access::intent ? line.write : line.read))
          [[likely]] { v[op->dst] = memory::ram_load<T>(reinterpret_cast<const u8*>(at + static_cast<u64>(line.addend))); } else {
            T x = 0;
            if (!g.memory->read(g, at, sizeof(T), op->aux, &x)) goto fault;
            v[op->dst] = x;
            if (g.leave) goto finish;
          })
  EACH(
      store, const u64 at = v[op->a] + static_cast<u64>(i64{op->disp}); const SoftLine& line = g.tlb->line[SoftTlb::index(at)];
      const T x = B; if (((at + sizeof(T) - 1) & ~u64{0xfff}) == line.write)
          [[likely]] { memory::ram_store<T>(reinterpret_cast<u8*>(at + static_cast<u64>(line.addend)), x); } else {
            if (!g.memory->write(g, at, sizeof(T), op->aux, &x)) goto fault;
            if (g.leave) goto finish;
          })
  EACH(rmw, u64 old = 0; if (!atomic_rmw<T>(g, v[op->a], op->aux, v[op->b], v[op->c], old)) goto fault; v[op->dst] = old;
       if (g.leave) goto finish)

  ANY(call) v[op->dst] = g.helpers[op->aux](g, v[op->a], v[op->b], v[op->c]);
  CC = g.cc_out;
  NEXT;
  ANY(call_state) v[op->dst] = g.helpers[op->aux](g, v[op->a], v[op->b], v[op->c]);
  CC = g.cc_out;
  if (g.fault) [[unlikely]]
    goto fault;
  if (g.leave) [[unlikely]]
    goto finish;
  NEXT;
  ANY(sync_ip)* g.ip = (g.ip_page + static_cast<u32>(op->disp)) & block.ip_mask;
  g.next_ip = (g.ip_page + static_cast<u32>(op->disp) + op->aux) & block.ip_mask;
  NEXT;
  ANY(pass) ANY(slow) ASSERT(!"a native block in the interpreter");

  ANY(jump) {
    const i32 target = op->disp;
    if (target == block.start && loops) goto again;
    disp_ip = g.ip_page + static_cast<u64>(i64{target});
  }
  goto out;
  ANY(branch_cc) {
    const i32 target = condition(static_cast<ir::Cond>(op->aux), v[op->a]) ? op->disp : block.fallthrough;
    if (target == block.start && loops) goto again;
    disp_ip = g.ip_page + static_cast<u64>(i64{target});
  }
  goto out;
  ANY(branch) {
    const i32 target = v[op->a] ? op->disp : block.fallthrough;
    if (target == block.start && loops) goto again;
    disp_ip = g.ip_page + static_cast<u64>(i64{target});
  }
  goto out;
  ANY(indirect) disp_ip = v[op->a];
  goto out;
  ANY(exit) disp_ip = g.ip_page + static_cast<u64>(i64{op->disp});
  reason = static_cast<ir::ExitReason>(op->aux);
  goto out;
  ANY(exit_set) reason = static_cast<ir::ExitReason>(op->aux);
  g.instructions += block.instructions.size();
  return reason;

again:
  disp_ip = g.ip_page + block.start;
  if (!only && g.poll.load(std::memory_order_relaxed)) {
    loops--;
    g.instructions += block.instructions.size();
    op = first_op;
    GO;
  }

out:
  *g.ip = disp_ip & block.ip_mask;
  g.instructions += block.instructions.size();
  return reason;

fault: {
  const ir::Instruction& i = only ? *only : block.instruction_of(static_cast<unsigned>(op - first_op));
  *g.ip = (g.ip_page + i.offset) & block.ip_mask;
  g.instructions += static_cast<u64>(&i - block.instructions.data());
  return ir::ExitReason::next;
}

// Something asked to leave after this instruction: its remaining ops run from a copy that ends in an exit.
finish:
  if (!only) {
    const unsigned index = static_cast<unsigned>(op - first_op);
    only = &block.instruction_of(index);
    const bool last = only == &block.instructions.back();
    const unsigned end = last ? static_cast<unsigned>(block.ops.size()) : only[1].first_op;
    if (end - index < std::size(rest) - 2) {
      unsigned n = 1;  // NEXT steps on to it
      for (unsigned i = index + 1; i < end; i++) rest[n++] = block.ops[i];
      Op exit;
      exit.code = OpCode::exit, exit.type = ir::Type::i64;
      exit.aux = static_cast<u16>(ir::ExitReason::next), exit.disp = only->offset + only->length;
      rest[n] = exit;
      op = rest;
    } else {
      only = nullptr;
    }
  }
  NEXT;
}

}  // namespace vmm::tcg
