// A machine on its way in from a stream: RAM as it comes, the rest all at once at the end. Streams are hostile.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "migration/channel.h"
#include "migration/stream.h"
#include "src/memory/memory.h"
#include "src/value/value.h"
#include "src/vm/machine.h"

namespace vmm::migration {

class MachineIn {
 public:
  // `live`: this machine has run already, so who translates code or logs stores must hear of what is written.
  MachineIn(vm::Machine& machine, bool live) : machine_(machine), live_(live) {}

  // The head and the first part; how many further connections will come. Takes the machine lock.
  Result<unsigned> begin(Reader& reader);
  // Whether RAM lies in places of its own; then go_to(rest()) before the next part. Each placed part is read from there.
  bool placed() const { return rest_ != 0; }
  u64 rest() const { return rest_; }
  Result<> take_placed(Channel& file, std::span<const u8> payload);
  // What a part says; the end is not for here. `pages` and `packed`: any thread, others at the same time for other pages.
  Result<> take(const Reader::Read& part);
  Result<> take_pages(std::span<const u8> payload);
  // Whether there is a section for each device, and a device for each section. Machine lock held.
  Result<> check() const;
  // Sections, all or nothing up to the first that a device refuses. Main loop, machine lock held; the machine stands.
  Result<> commit();
  // What it was like before it left; running where the stream does not say.
  vm::Status status() const { return status_; }
  // Small disks of snapshots, by name.
  const std::map<std::string, std::vector<u8>>& images() const { return images_; }

 private:
  Result<> take_machine(const Value& machine);
  Result<> take_layout(const Value& placed);
  Result<> take_section(std::span<const u8> payload);
  Result<> take_image(std::span<const u8> payload);
  vm::Machine& machine_;
  const bool live_;
  vm::Status status_ = vm::Status::running;
  std::vector<memory::RamBlock*> blocks_;  // by the numbers of the stream
  std::map<std::string, Value> sections_;
  std::map<std::string, std::vector<u8>> images_;
  u64 section_bytes_ = 0, image_bytes_ = 0;
  std::vector<u64> at_;  // places of the blocks
  u64 rest_ = 0;
  std::vector<u8> gathered_;
};

}  // namespace vmm::migration
