// What all cards have in common: ends of queues, an address, a name, work that waits for the main loop.
#pragma once

#include "hw/core/device.h"
#include "hw/pci/pci.h"
#include "net/net.h"

namespace vmm::hw {

// The card's side of its cables; a device (of any bus) derives from this beside Device.
class NetCard : public net::Card {
 public:
  // A frame from the network for queue `index`; false: no room, and ready(index) follows. Main loop, machine lock held.
  virtual bool card_receive(unsigned index, const net::Packet& packet) = 0;
  virtual void card_resume(unsigned) {}        // the peer takes packets again
  virtual void card_link_changed(unsigned) {}  // ask connected()
  virtual net::OffloadSet card_takes() const { return {}; }

  // net::Card
  std::string card_name() const override;
  std::string_view model() const override;
  const net::Mac& mac() const override { return mac_; }
  unsigned ends() const override { return static_cast<unsigned>(ends_.size()); }
  net::End& end(unsigned index) override { return *ends_[index]; }

 protected:
  // A property that is a member of NetCard: `Class` is the device that derives from it.
  template <class Class, auto Member>
  static constexpr Field card_field(std::string_view name, std::string_view doc) {
    using T = typename MemberOf<decltype(Member)>::Type;
    return Field{
        .name = name,
        .doc = doc,
        .type = &Codec<T>::description,
        .get = [](const void* o) -> Value { return Codec<T>::to_value(static_cast<const Class*>(static_cast<const Object*>(o))->*Member); },
        .set = [](void* o, const Value& v, const Field& f) -> Result<> {
          return Codec<T>::from_value(static_cast<Class*>(static_cast<Object*>(o))->*Member, v, f.name, FieldLimits{});
        }};
  }
  // In realize: gives the card an address if it has none and links `queues` ends with those of `netdev_`.
  Result<> plug_in(Device& device, unsigned queues = 1);
  void pull_out();  // in unrealize
  bool link_up() const { return !ends_.empty() && ends_[0]->connected(); }
  net::Mac mac_{};
  Ref<net::Netdev> netdev_;
  i32 boot_index_ = -1;

 private:
  class CardEnd final : public net::End {
   public:
    CardEnd(NetCard& card, unsigned index) : card_(card), index_(index) {}
    bool receive(const net::Packet& packet) override;
    net::OffloadSet takes() const override { return card_.card_takes(); }
    void resume() override { card_.card_resume(index_); }
    void link_changed() override { card_.card_link_changed(index_); }

   private:
    NetCard& card_;
    unsigned index_;
  };
  Device* device_ = nullptr;
  std::vector<std::unique_ptr<CardEnd>> ends_;
};

// A PCI card with one queue.
class PciNic : public PciDevice, public NetCard {
 public:
  static const TypeInfo type;
  ~PciNic() override { *alive_ = false; }
  std::vector<BootEntry> boot_entries() const override { return {{.index = boot_index_, .tail = "/ethernet-phy@0"}}; }

 protected:
  PciNic(const PciIds& ids, std::string_view rom);
  Result<> realize_pci() final;
  Task<> unrealize_pci() final;
  virtual Result<> realize_nic() = 0;
  virtual void stop_nic() {}  // the device leaves: timers off
  // Does the work that was asked for, soon, on the main loop; many requests are one call.
  void run_soon();
  virtual void work() = 0;

 private:
  static const Field nic_properties[3];
  std::string_view default_rom_;
  bool work_wanted_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // posts must not keep a device beyond its machine
};

}  // namespace vmm::hw
