// The maker and the cache of native stubs (native_stub.h). Source: SDM 2A §2.1 (legacy forms), §2.3 (VEX).
// Stubs live in one memfd mapped twice: `rx` for running, `rw` for writing, so no page is ever writable and executable.
#include "accel/tcg/guest/x86/native_stub.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "accel/tcg/guest/x86/portable_simd.h"
#include "src/base/lock.h"

namespace vmm::tcg::x86 {
namespace {

// Every shape a guest can ask for fits: some 2,000 rows by form and length, and 60 rows with 256 immediates, at under 256 bytes.
constexpr usize so_cache_bytes = 48 * MiB;
constexpr usize so_longest = 256;

struct ShapeHash {
  usize operator()(const StubShape& s) const {
    u64 h = s.uses * 0x9e3779b97f4a7c15;
    const u64 code = u64{s.prefix} | u64{s.map} << 8 | u64{s.opcode} << 16 | u64{s.modrm_reg} << 24 | u64{s.modrm_rm} << 32 |
                     u64{s.immediate} << 40 | u64{s.memory} << 48 | u64{s.vex} << 49 | u64{s.vex_l} << 50 | u64{s.w} << 51 |
                     u64{s.has_immediate} << 52 | u64{s.memory_bytes} << 53 | u64{s.memory_stored} << 60 | u64{s.memory_aligned} << 61;
    h ^= code + (u64{s.immediate2} << 8) + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccd >> 7;
  }
};

#if defined(__x86_64__)

// Bytes of one stub. rdi = StubFrame* throughout.
class Writer {
 public:
  explicit Writer(u8* at) : at_(at), begin_(at) {}
  usize size() const { return at_ - begin_; }
  template <class... Bytes>
  void put(Bytes... bytes) {
    ((*at_++ = static_cast<u8>(bytes)), ...);
  }
  void put32(u32 v) { std::memcpy(at_, &v, 4), at_ += 4; }
  // ModRM for [rdi + disp32] with `reg` (0–7) in its middle field.
  void operand(unsigned reg, usize offset) { put(0x80 | reg << 3 | 7), put32(static_cast<u32>(offset)); }

 private:
  u8 *at_, *begin_;
};

void vector_move(Writer& w, bool vex, bool store, unsigned n) {
  const u8 opcode = store ? 0x11 : 0x10;
  if (vex)
    w.put(0xc5, 0xfc, opcode);  // vmovups ymm
  else
    w.put(0x0f, opcode);  // movups xmm
  w.operand(n, offsetof(StubFrame, vector) + n * 32);
}

void gpr_move(Writer& w, bool store, unsigned n) {
  w.put(0x48, store ? 0x89 : 0x8b);
  w.operand(n, offsetof(StubFrame, gpr) + n * 8);
}

// The instruction itself on the fixed registers.
void instruction(Writer& w, const StubShape& s) {
  unsigned reg = static_cast<unsigned>(StubRegister::reg), rm = static_cast<unsigned>(StubRegister::rm);
  if (s.uses & (StubShape::opcode_reg | StubShape::mmx_reg))
    reg = s.modrm_reg;
  else if (s.uses & StubShape::gpr_reg)
    reg = 0;
  if (s.uses & (StubShape::x87_stack | StubShape::mmx_rm))
    rm = s.modrm_rm;
  else if (s.uses & StubShape::gpr_rm)
    rm = 2;

  if (s.vex) {
    const unsigned vvvv = s.has_vvvv ? static_cast<unsigned>(StubRegister::vvvv) : 0;
    const unsigned pp = s.prefix == 0x66 ? 1 : s.prefix == 0xf3 ? 2 : s.prefix == 0xf2 ? 3 : 0;
    w.put(0xc4, 0xe0 | s.map, s.w << 7 | (~vvvv & 15) << 3 | s.vex_l << 2 | pp);
  } else {
    if (s.prefix) w.put(s.prefix);
    if (s.w) w.put(0x48);
    if (s.map) w.put(0x0f);
    if (s.map == 2) w.put(0x38);
    if (s.map == 3) w.put(0x3a);
  }
  w.put(s.opcode);
  if (s.has_modrm) {
    if (s.memory)
      w.operand(reg, offsetof(StubFrame, memory));
    else
      w.put(0xc0 | reg << 3 | rm);
  }
  if (s.uses & StubShape::load_is4)
    w.put(static_cast<unsigned>(StubRegister::is4) << 4 | (s.immediate & 15));
  else if (s.has_immediate)
    w.put(s.immediate);
  if (s.has_immediate2) w.put(s.immediate2);
}

void write_stub(Writer& w, const StubShape& s) {
  if (s.uses & StubShape::x87) w.put(0x48, 0x0f, 0xae), w.operand(1, offsetof(StubFrame, x87));  // fxrstor64
  if (s.uses & StubShape::mxcsr) w.put(0x0f, 0xae), w.operand(2, offsetof(StubFrame, mxcsr));    // ldmxcsr
  for (unsigned n = 0; n < 5; ++n)
    if (s.uses >> n & 1) vector_move(w, s.vex, false, n);
  if (s.uses & StubShape::load_gpr)
    for (unsigned n = 0; n < 3; ++n) gpr_move(w, false, n);
  if (s.uses & StubShape::load_flags) w.put(0xff), w.operand(6, offsetof(StubFrame, flags)), w.put(0x9d);  // push; popfq
  instruction(w, s);
  if (s.uses & StubShape::store_flags) w.put(0x9c, 0x8f), w.operand(0, offsetof(StubFrame, flags));  // pushfq; pop
  if (s.uses & StubShape::store_gpr)
    for (unsigned n = 0; n < 3; ++n) gpr_move(w, true, n);
  for (unsigned n = 0; n < 4; ++n)
    if (s.uses >> (n + 5) & 1) vector_move(w, s.vex, true, n);
  if (s.uses & StubShape::mxcsr) {
    w.put(0x0f, 0xae), w.operand(3, offsetof(StubFrame, mxcsr));       // stmxcsr
    w.put(0x0f, 0xae), w.operand(2, offsetof(StubFrame, host_mxcsr));  // ldmxcsr
  }
  if (s.uses & StubShape::x87) {
    w.put(0x48, 0x0f, 0xae), w.operand(0, offsetof(StubFrame, x87));  // fxsave64: raises nothing that is pending
    w.put(0xdb, 0xe3);                                                // fninit: C++ gets its x87 back, nothing pending
  }
  if (s.vex) w.put(0xc5, 0xf8, 0x77);  // vzeroupper
  w.put(0xc3);
}

class Cache {
 public:
  const NativeOp* find(const StubShape& shape) {
    Lock lock(mutex_);
    if (const auto it = ops_.find(shape); it != ops_.end()) return &it->second;
    if (const PortableBody body = portable_body(shape))
      return &ops_.emplace(shape, NativeOp{.shape = shape, .portable = body}).first->second;
    if (!open() || used_ + so_longest > so_cache_bytes) return nullptr;
    Writer w(rw_ + used_);
    write_stub(w, shape);
    const NativeOp op{.shape = shape, .stub = reinterpret_cast<void (*)(StubFrame*)>(rx_ + used_)};
    used_ += (w.size() + 15) & ~usize{15};
    return &ops_.emplace(shape, op).first->second;  // the nodes of this map never move
  }
  StubCounts counts() {
    Lock lock(mutex_);
    return {ops_.size(), used_};
  }

 private:
  bool open() REQUIRES(mutex_) {
    if (rw_) return true;
    if (tried_) return false;
    tried_ = true;
    const int fd = ::memfd_create("vmm-stubs", MFD_CLOEXEC);
    if (fd < 0 || ::ftruncate(fd, so_cache_bytes) < 0) return fd >= 0 && (::close(fd), false);
    void* rx = ::mmap(nullptr, so_cache_bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    void* rw = ::mmap(nullptr, so_cache_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (rx == MAP_FAILED || rw == MAP_FAILED) return false;
    rx_ = static_cast<u8*>(rx), rw_ = static_cast<u8*>(rw);
    return true;
  }
  Mutex mutex_;
  std::unordered_map<StubShape, NativeOp, ShapeHash> ops_ GUARDED_BY(mutex_);
  u8 *rx_ GUARDED_BY(mutex_) = nullptr, *rw_ GUARDED_BY(mutex_) = nullptr;
  usize used_ GUARDED_BY(mutex_) = 0;
  bool tried_ GUARDED_BY(mutex_) = false;
};

#else

class Cache {
 public:
  const NativeOp* find(const StubShape& shape) {
    Lock lock(mutex_);
    if (const auto it = ops_.find(shape); it != ops_.end()) return &it->second;
    const PortableBody body = portable_body(shape);
    return body ? &ops_.emplace(shape, NativeOp{.shape = shape, .portable = body}).first->second : nullptr;
  }
  StubCounts counts() { return {}; }

 private:
  Mutex mutex_;
  std::unordered_map<StubShape, NativeOp, ShapeHash> ops_ GUARDED_BY(mutex_);
};

#endif

// Lives for the whole process: blocks hold pointers into it.
Cache& cache() {
  static Cache* const instance = std::make_unique<Cache>().release();
  return *instance;
}

}  // namespace

void NativeOp::run(StubFrame& frame) const {
  if (portable)
    run_portable(portable, shape, frame);
  else
    stub(&frame);
}
const NativeOp* native_op(const StubShape& shape) { return cache().find(shape); }
StubCounts native_stub_counts() { return cache().counts(); }

}  // namespace vmm::tcg::x86
