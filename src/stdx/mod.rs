//! What std could have had. No word of the domain lives here; an item stays only while two
//! folders use it and std lacks it.
