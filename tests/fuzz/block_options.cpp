// What a disk may be told: file names with their prefixes and json:, key lists, options trees of every driver. No names of real files: what
// has a slash is not tried, nor what asks to be slow.
#include "block/core/drive.h"
#include "src/value/key_list.h"

using namespace vmm;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (size > 4096 || text.contains("latency") || text.find('/') != text.npos || text.find("\\u") != text.npos) return 0;
  static EventLoop loop;
  const auto finish = [&](Result<block::NodeRef> node) {
    if (!node) return;
    if (auto edge = block::Edge::make(*node, "root", "fuzz", block::Role::user, block::permit_read, block::permit_all)) {
      block::Buffer buffer{4096};
      (void)run_task(loop, (*edge)->read(0, buffer.vector()));
      (void)run_task(loop, (*edge)->map(0, ~u64{0}));
    }
    (void)run_task(loop, block::release(std::move(*node)));
  };
  finish(run_task(loop, block::open_image(loop, std::string{text}, "", Value::object().set("read-only", true))));
  if (auto tree = parse_key_list_or_json(text, "driver", true); tree && tree->is_object()) {
    tree->set("read-only", true);
    finish(run_task(loop, block::open_node(loop, *tree)));
    tree->erase("read-only");
    tree->set("if", "none").set("readonly", "on");
    if (auto drive = run_task(loop, block::make_drive(loop, std::move(*tree), {.board_interface = block::Drive::Interface::none}))) {
      const std::string id = drive->backend->id();
      (void)run_task(loop, drive->backend->remove_medium());
      block::forget_drive(id);
      block::forget_backend(drive->backend);
    }
  }
  return 0;
}
