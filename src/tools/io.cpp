// vmm io (qemu-io): reads, writes and checks an image by commands; the exerciser of our own tests.
#include <cstdio>

#include "block/core/node.h"
#include "src/base/log.h"
#include "src/tools/tool.h"

namespace vmm::tools {
namespace {

struct Session {
  EventLoop loop;
  block::NodeRef node;
  block::Child edge;
};
int run_io(std::span<const char* const> words) {
  Session s;
  std::string format, filename;
  std::vector<std::string> commands;
  bool read_only = false;
  for (usize i = 0; i < words.size(); i++) {
    const std::string_view w = words[i];
    if (w == "-f" && i + 1 < words.size())
      format = words[++i];
    else if (w == "-c" && i + 1 < words.size())
      commands.emplace_back(words[++i]);
    else if (w == "-r")
      read_only = true;
    else
      filename = w;
  }
  auto work = [&]() -> Result<> {
    Value common = Value::object();
    common.set("read-only", read_only);
    s.node = TRY(run_task(s.loop, block::open_image(s.loop, filename, format, common)));
    s.edge = TRY(block::Edge::make(s.node, "root", "vmm io", block::Role::user,
                                   read_only ? block::permit_read : u8(block::permit_read | block::permit_write), block::permit_all));
    for (const auto& c : commands) {
      char name[32] = {};
      unsigned long long offset = 0, length = 0;
      if (std::sscanf(c.c_str(), "%31s %llu %llu", name, &offset, &length) < 3) return fail("bad command: {}", c);
      block::Buffer buffer{length};
      std::memset(buffer.data(), 0xcd, length);
      if (std::string_view{name} == "read")
        TRY(run_task(s.loop, s.edge->read(offset, buffer.vector())));
      else
        TRY(run_task(s.loop, s.edge->write(offset, buffer.vector())));
      std::printf("%s %llu/%llu bytes at offset %llu\n", name, length, length, offset);
    }
    return run_task(s.loop, s.edge->flush());
  };
  auto done = work();
  s.edge.reset();
  if (s.node) (void)run_task(s.loop, block::release(std::move(s.node)));
  if (!done) report_error(done.error());
  return done ? 0 : 1;
}
RegisteredTool registered{{.name = "io", .program = "qemu-io", .doc = "Read and write an image by commands.", .run = run_io}};

}  // namespace
}  // namespace vmm::tools
