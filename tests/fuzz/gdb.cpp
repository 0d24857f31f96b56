// The debugger's wire: bytes as a client sends them, into framing and session, with two vCPUs that never run.
#include <algorithm>

#include "src/gdbstub/session.h"
#include "tests/unit/hw/bench.h"

[[maybe_unused]] static constexpr const char* parts[] = {
    "packets: PacketReader::byte, frame, escape, to_hex, from_hex, take_hex",
};

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  // What is escaped and framed comes back as it was; so does what is written in hexadecimal.
  if (size <= 1024) {
    const std::string_view raw{reinterpret_cast<const char*>(data), size};
    gdb::PacketReader back;
    auto last = gdb::PacketReader::Event::none;
    for (const char c : gdb::frame(gdb::escape(raw))) last = back.byte(static_cast<u8>(c));
    ASSERT(last == gdb::PacketReader::Event::packet && back.data() == raw);
    const auto bytes = gdb::from_hex(gdb::to_hex({data, size}));
    ASSERT(bytes && std::ranges::equal(*bytes, std::span{data, size}));
  }
  static const auto* const model = [] {
    auto made = x86::resolve_model("max", x86::tcg_features(), "tcg");
    ASSERT(made.has_value());
    return new x86::CpuModel(std::move(*made));
  }();
  test::DeviceBench bench;
  vm::Machine& machine = bench.machine();
  while (machine.vcpus().size() < 2)
    bench.machine().add_vcpu(std::make_unique<test::BenchVcpu>(machine, static_cast<unsigned>(machine.vcpus().size()), *model));
  usize sent = 0;
  gdb::Session session{machine,
                       {.reply = [&](std::string_view text) { sent += gdb::frame(text).size(); },
                        .run_command = [](std::string_view line) { return std::string{line}; }}};
  session.begin();
  gdb::PacketReader reader;
  for (usize i = 0; i < size; i++) {
    switch (reader.byte(data[i])) {
      case gdb::PacketReader::Event::packet: session.packet(std::string{reader.data()}); break;
      case gdb::PacketReader::Event::interrupt: session.interrupt(); break;
      default: break;
    }
  }
  session.end();
  return 0;
}
