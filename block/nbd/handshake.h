// The client's half of NBD's handshake. Source: proto.md, "Fixed newstyle negotiation", "Option types".
#pragma once

#include <optional>

#include "block/nbd/stream.h"
#include "block/nbd/wire.h"

namespace vmm::block::nbd {

struct ExportInfo {
  u64 length_bytes = 0;
  u16 flags = 0;
  u32 min_block = 1, preferred_block = 4096, max_block = most_payload_bytes;
  bool structured = false;
  std::optional<u32> context;  // the number of the one that was asked for
  std::string description;
  bool has(u16 flag) const { return flags & flag; }
};
// Enters the transmission phase with an export.
Task<ExportInfo> enter_export(Stream& stream, std::string name, std::string context);

struct ListedExport {
  std::string name;
  ExportInfo info;
  std::vector<std::string> contexts;
};
// What a server has; the connection is of no use afterwards.
Task<std::vector<ListedExport>> list_exports(Stream& stream);

}  // namespace vmm::block::nbd
