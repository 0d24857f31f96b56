// What an NBD server offers: a node under a name. Clients' requests go through a back end of its own, and so to the node's loop, through
// drains and into the order of all other requests. Main loop.
#pragma once

#include "block/core/backend.h"
#include "block/core/dirty_bitmap.h"

namespace vmm::block {

struct ExportOptions {
  std::string id, name, description;
  bool writable = false, writethrough = false, allocation_depth = false;
  bool multi_conn = true;            // clients may use several connections at a time
  std::vector<std::string> bitmaps;  // of the node or one below it
};

class Export {
 public:
  static Result<std::shared_ptr<Export>> make(NodeRef node, ExportOptions options);
  ~Export();
  const ExportOptions& options() const { return options_; }
  Backend& backend() const { return *backend_; }
  std::string node_name() const { return backend_->node() ? backend_->node()->node_name() : std::string{}; }
  u64 length_bytes() const { return length_; }
  u16 flags(bool structured) const;
  // Contexts that a client may ask for: base:allocation, then qemu:allocation-depth, then the bitmaps.
  std::vector<std::string> contexts() const;
  // The flags of a context at `offset` and for how many bytes they hold, `length` at most.
  Task<std::pair<u32, u64>> status(std::string context, u64 offset, u64 length);

  u32 clients = 0;
  bool closing = false;

 private:
  Export() = default;
  ExportOptions options_;
  BackendRef backend_;
  std::vector<std::shared_ptr<DirtyBitmap>> bitmaps_;
  u64 length_ = 0;
};
using ExportRef = std::shared_ptr<Export>;

}  // namespace vmm::block
