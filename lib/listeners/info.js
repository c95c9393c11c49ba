'use strict';

/**
 * What the broker says of a message beside its headers. A class, since an
 * object with getters of its own costs more than all else that is made for a
 * message.
 */
class Info {
  #delivery;

  /** @param {InstanceType<typeof import('../native/delivery-codec').Delivery>} delivery */
  constructor(delivery) {
    this.#delivery = delivery;
    this.routingKey = delivery.routingKey;
    this.exchange = delivery.exchange;
    this.redelivered = delivery.redelivered;
    this.contentType = delivery.contentType;
    this.messageId = delivery.messageId;
  }

  /** Made when somebody looks. */
  get raw() {
    return this.#delivery.raw;
  }
}

module.exports = { Info };
