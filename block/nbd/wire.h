// The numbers of NBD's wire, all big endian. Source: "The NBD Protocol" (proto.md of the NetworkBlockDevice project), sections "Handshake
// phase", "Transmission phase", "Values".
#pragma once

#include "src/base/bits.h"

namespace vmm::block::nbd {

inline constexpr u64 hello_magic = 0x4e42444d41474943;   // "NBDMAGIC"
inline constexpr u64 option_magic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr u64 oldstyle_magic = 0x00420281861253;  // where a newstyle server says "IHAVEOPT"
inline constexpr u64 option_reply_magic = 0x0003e889045565a9;
inline constexpr u32 request_magic = 0x25609513;
inline constexpr u32 simple_reply_magic = 0x67446698;
inline constexpr u32 structured_reply_magic = 0x668e33ef;

inline constexpr u32 most_payload_bytes = 32 * MiB;  // of one read or write
inline constexpr u32 most_string_bytes = 4096;       // names, descriptions, contexts
inline constexpr u16 default_port = 10809;

// Handshake flags: the server's are 16 bits wide, the client's 32.
namespace hello {
inline constexpr u16 fixed_newstyle = 1, no_zeroes = 2;
}
enum class Option : u32 {
  export_name = 1,
  abort = 2,
  list = 3,
  start_tls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
};
enum class OptionReply : u32 {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  unsupported = 0x8000'0001,
  policy = 0x8000'0002,
  invalid = 0x8000'0003,
  platform = 0x8000'0004,
  tls_required = 0x8000'0005,
  unknown = 0x8000'0006,
  shutdown = 0x8000'0007,
  block_size_required = 0x8000'0008,
  too_big = 0x8000'0009,
};
inline constexpr u32 option_reply_error = 0x8000'0000;
enum class Info : u16 { export_ = 0, name = 1, description = 2, block_size = 3 };

// Transmission flags of an export.
namespace export_flag {
inline constexpr u16 has_flags = 1, read_only = 2, flush = 4, fua = 8, rotational = 16, trim = 32, write_zeroes = 64, df = 128,
                     multi_conn = 256, resize = 512, cache = 1024, fast_zero = 2048;
}

enum class Command : u16 { read = 0, write = 1, disconnect = 2, flush = 3, trim = 4, cache = 5, write_zeroes = 6, block_status = 7 };
namespace command_flag {
inline constexpr u16 fua = 1, no_hole = 2, df = 4, one_extent = 8, fast_zero = 16;
}

// u32 magic, u16 flags, u16 command, u64 cookie, u64 offset, u32 length
inline constexpr usize request_bytes = 28;
// u32 magic, u32 error, u64 cookie
inline constexpr usize simple_reply_bytes = 16;
// u32 magic, u16 flags, u16 type, u64 cookie, u32 length
inline constexpr usize chunk_header_bytes = 20;
inline constexpr u16 chunk_done = 1;
enum class Chunk : u16 { none = 0, offset_data = 1, offset_hole = 2, block_status = 5, error = 0x8001, error_offset = 0x8002 };
inline constexpr u16 chunk_is_error = 0x8000;

// Extents of the context "base:allocation", and of "qemu:dirty-bitmap:NAME".
inline constexpr u32 extent_hole = 1, extent_zero = 2, extent_dirty = 1;

// Errors on the wire are Linux's numbers of this list only.
constexpr u32 error_on_wire(int os_error) {
  switch (os_error) {
    case 0: return 0;
    case EPERM:
    case EROFS:
    case EACCES: return 1;
    case ENOMEM: return 12;
    case EINVAL: return 22;
    case ENOSPC:
    case EFBIG:
    case EDQUOT: return 28;
    case EOVERFLOW: return 75;
    case ENOTSUP: return 95;
    case ESHUTDOWN: return 108;
    default: return 5;
  }
}
constexpr int error_from_wire(u32 error) {
  switch (error) {
    case 1: return EPERM;
    case 12: return ENOMEM;
    case 22: return EINVAL;
    case 28: return ENOSPC;
    case 75: return EOVERFLOW;
    case 95: return ENOTSUP;
    case 108: return ESHUTDOWN;
    default: return EIO;
  }
}

// A message under construction: numbers and strings one after the other.
class Message {
 public:
  Message& u16be(u16 v) { return number(v); }
  Message& u32be(u32 v) { return number(v); }
  Message& u64be(u64 v) { return number(v); }
  Message& text(std::string_view s) {
    bytes_.insert(bytes_.end(), s.begin(), s.end());
    return *this;
  }
  Message& string(std::string_view s) { return u32be(u32(s.size())).text(s); }  // its length first
  std::span<u8> bytes() { return bytes_; }
  usize size() const { return bytes_.size(); }

 private:
  template <class T>
  Message& number(T v) {
    bytes_.resize(bytes_.size() + sizeof v);
    store_be<T>(&bytes_[bytes_.size() - sizeof v], v);
    return *this;
  }
  std::vector<u8> bytes_;
};

}  // namespace vmm::block::nbd
